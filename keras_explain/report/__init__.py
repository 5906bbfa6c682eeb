"""Rounds of explanation -> one self-contained HTML page: no network, no other file, one small script."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_explain.errors import FIT, InputError, MissingExtra
from keras_explain.records import Attribution, Samples, load_round
from keras_explain.report.rounds import pictures_of, round_of
from keras_explain.verdicts import CHANCE
from keras_explain.words import METHODS

# MLflow shows pages up to 50 MiB; mail and people bear less.
_ROOM = 24_000_000
_MOST_PER_MAP = 150_000
_PARTS = {name: Path(__file__).with_name(f"page.{name}") for name in ("html", "css", "js")}
_DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.S)


class Report:
    """A page that grows with the rounds of a training.

    Args:
        title: of the page.
        rounds: that are expected, which share the room of the page; more are taken too.

    Raises:
        MissingExtra: jinja2 is not installed.

    Examples:
        >>> import numpy as np, keras_explain as kx
        >>> from keras_explain.report import Report
        >>> report = Report("by hand")
        >>> found = kx.Attribution("mine", np.ones((1, 8, 8, 1)), [0], [0], score=[64.0], base_score=[0.0])
        >>> report.add("round", kx.Samples(np.zeros((1, 8, 8, 1)), [0]), [found], {})
        >>> "by hand" in report.page()
        True
    """

    def __init__(self, title: str, rounds: int = 1):
        self._expected = max(1, rounds)
        self._rounds: dict[str, str] = {}  # JSON, without the curves
        self._histories: dict[str, dict[str, Any]] = {}
        self._data: dict[str, Any] = {
            "title": title,
            "images": {},
            "chance": CHANCE,
            "agreement": {},
            "notes": [],
            "trouble": {},
        }
        self._data["names"] = {name: method.title for name, method in METHODS.items()}

    def add(
        self,
        name: str,
        samples: Samples,
        attributions: Sequence[Attribution],
        settings: Mapping[str, Any],
        names: Sequence[str] = (),
    ) -> None:
        """Take a round in, in the place of an earlier one of its name.

        Args:
            name: of the round, by which rounds are told apart.
            samples, attributions, settings: as `kx.load_round` gives them.
            names: titles of the attributions; those of `keras_explain.words.titles` if there are none.
        """
        maps = self._expected * sum(map(len, attributions))
        room = min(_MOST_PER_MAP, _ROOM // max(1, maps))
        self._data["images"] |= pictures_of(samples)
        self._keep(name, round_of(name, samples, attributions, settings, room, names))
        self.tell(settings.get("trouble", {}))

    def _keep(self, name: str, found: dict[str, Any]) -> None:
        """Keep a round as text, which takes less memory, and its curves, which grow with the rounds, only once."""
        history = found.pop("history")
        for earlier, known in self._histories.items():
            if _is_part(known, history):
                self._histories[earlier] = {"epochs": [], "curves": {}}
        self._histories[name] = history
        self._rounds[name] = _as_json(found)

    def tell(self, trouble: Mapping[str, str]) -> None:
        """Say what went wrong in the training, beside every round. The first words stay, but for those of `FIT`.

        Args:
            trouble: words, by what they are about.
        """
        for what, words in trouble.items():
            if what == FIT or str(what) not in self._data["trouble"]:
                self._data["trouble"][str(what)] = str(words)

    def compare(self, agreement: Mapping[str, Mapping[str, float]], notes: Sequence[str]) -> None:
        """Show the two rounds side by side.

        Args:
            agreement: rank correlation of their maps, by slot and title of the method.
            notes: what else a reader must know of the two.
        """
        self._data["agreement"] = {slot: dict(numbers) for slot, numbers in agreement.items()}
        self._data["notes"] = list(notes)

    def take_over(self, page: str, before: int) -> None:
        """The earlier rounds of a page, for a training that is resumed; of what is no such page, nothing.

        Args:
            page: the HTML.
            before: the epoch at which the training goes on.
        """
        found = _DATA.search(page)
        try:
            earlier = json.loads(found[1]) if found else {}
            images = dict(earlier["images"])
            rounds = {name: round for name, round in earlier["rounds"].items() if round["epoch"] < before}
            if not all(_fits(round["history"]) for round in rounds.values()):
                return
            trouble = dict(earlier.get("trouble", {}))
        except (ValueError, KeyError, TypeError, AttributeError):
            return
        self._data["images"] = images | self._data["images"]
        for name in rounds.keys() - self._rounds.keys():
            self._keep(name, rounds[name])
        now, self._data["trouble"] = self._data["trouble"], trouble
        self.tell(now)

    def __contains__(self, name: str) -> bool:
        """Whether it has the round of a name."""
        return name in self._rounds

    def page(self) -> str:
        """The HTML, rounds in the order of their names."""
        return "".join(self.pieces())

    def pieces(self) -> Iterator[str]:
        """The HTML a round at a time, so that the page of a long training is nowhere held whole."""
        try:
            from jinja2 import Environment
        except ImportError as error:
            raise MissingExtra("Reports need jinja2: pip install jinja2") from error
        parts = {name: path.read_text("utf-8") for name, path in _PARTS.items()}
        environment = Environment(autoescape=True)
        template = environment.from_string(parts["html"])
        data, title = self._json(), self._data["title"]
        yield from template.generate(data=data, title=title, style=parts["css"], script=parts["js"])

    def _json(self) -> Iterator[str]:
        yield f'{_as_json(self._data)[:-1]},"rounds":{{'
        for i, name in enumerate(sorted(self._rounds, key=lambda name: (len(name), name))):
            yield f"{',' if i else ''}{_as_json(name)}:{self._rounds[name][:-1]}"
            yield f',"history":{_as_json(self._histories[name])}}}'
        yield "}}"


def _as_json(value: Any) -> str:
    """JSON in which nothing means anything to HTML."""
    text = json.dumps(value, separators=(",", ":"))
    for sign in "<>&'":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _fits(history: Mapping[str, Any]) -> bool:
    """Whether it is made of lists by measure and method; raises what a thing of another kind does."""
    lines = [line for lines in history["curves"].values() for line in lines.values()]
    return all(isinstance(line, list) for line in [history["epochs"], *lines])


def _is_part(history: Mapping[str, Any], whole: Mapping[str, Any]) -> bool:
    """Whether curves are those of another history, up to some epoch."""
    count = len(history["epochs"])
    return history["epochs"] == whole["epochs"][:count] and all(
        whole["curves"].get(name, {}).get(method, [])[:count] == line
        for name, lines in history["curves"].items()
        for method, line in lines.items()
    )


def joined(page: str, earlier: str, before: int) -> str:
    """A page with the earlier rounds of another one.

    Args:
        page: the HTML.
        earlier: the HTML of a training that has gone on.
        before: the epoch at which it has.
    """
    found = _DATA.search(page)
    if found is None:
        return page
    report = Report("")
    try:
        known = json.loads(found[1])
        for name, shown in known.pop("rounds").items():
            report._keep(name, shown)
        report._data |= known
    except (ValueError, KeyError, TypeError, AttributeError):
        return earlier or page
    report.take_over(earlier, before)
    return report.page()


def write_report(folder: str | Path, file: str | Path, title: str = "Explanations") -> Path:
    """Write a page of the pictures, numbers and settings of explained rounds.

    Args:
        folder: of one round, or of several as a tracker keeps them, such as `runs/one/explanations`.
        file: the HTML file.
        title: of the page.

    Returns:
        The file.

    Raises:
        InputError: a folder without rounds.
        MissingExtra: jinja2 is not installed.

    Examples:
        >>> import numpy as np, keras_explain as kx
        >>> from keras_explain.report import write_report
        >>> samples = kx.Samples(np.zeros((1, 8, 8, 1)), [0])
        >>> found = kx.Attribution("mine", np.ones((1, 8, 8, 1)), [0], [0], score=[64.0], base_score=[0.0])
        >>> kx.save_round("round", samples, [found], {"title": "by hand"})
        >>> write_report("round", "report.html").stat().st_size > 10_000
        True
    """
    places = rounds_in(folder)
    report = Report(title, len(places))
    for place in places:
        report.add(place.name, *load_round(place))
    return write_page(report, file)


def rounds_in(folder: str | Path) -> list[Path]:
    """The rounds of a folder in the order of their epochs: itself, or what a training or `explain_selected` has left.

    Args:
        folder: of one round or of a training.

    Raises:
        InputError: there is none.
    """
    folder = Path(folder)
    if (folder / "settings.json").is_file():
        return [folder]
    found = [place for root in (folder, folder / "explanations") for place in root.glob("epoch_*")]
    found += [folder / "round"]
    found = [place for place in found if (place / "settings.json").is_file()]
    if not found:
        raise InputError(f"{folder} holds no round; give the folder of one, such as epoch_0004, or of several.")
    return sorted(found, key=lambda place: (len(place.name), place.name))


def write_page(report: Report, file: str | Path) -> Path:
    """Write a page, in the place of an earlier one only when it is whole."""
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial")
    try:
        with partial.open("w", encoding="utf-8", errors="replace") as out:
            out.writelines(report.pieces())
        partial.replace(file)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return file
