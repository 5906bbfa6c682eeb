"""Rounds of explanation -> one self-contained HTML page: no network, no other file, one small script."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_explain.errors import InputError, MissingExtra
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
        self._rounds = max(1, rounds)
        self._data: dict[str, Any] = {
            "title": title,
            "images": {},
            "rounds": {},
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
        maps = self._rounds * sum(map(len, attributions))
        room = min(_MOST_PER_MAP, _ROOM // max(1, maps))
        self._data["images"] |= pictures_of(samples)
        self._data["rounds"][name] = round_of(name, samples, attributions, settings, room, names)
        self.tell(settings.get("trouble", {}))

    def tell(self, trouble: Mapping[str, str]) -> None:
        """Say what went wrong in the training, beside every round.

        Args:
            trouble: words, by what they are about.
        """
        self._data["trouble"] |= {str(what): str(words) for what, words in trouble.items()}

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
            trouble = dict(earlier.get("trouble", {}))
        except (ValueError, KeyError, TypeError, AttributeError):
            return
        self._data["images"] = images | self._data["images"]
        self._data["rounds"] = rounds | self._data["rounds"]
        self._data["trouble"] = trouble | self._data["trouble"]

    def __contains__(self, name: str) -> bool:
        """Whether it has the round of a name."""
        return name in self._data["rounds"]

    def page(self) -> str:
        """The HTML, rounds in the order of their names."""
        try:
            from jinja2 import Environment
        except ImportError as error:
            raise MissingExtra("Reports need jinja2: pip install jinja2") from error
        parts = {name: path.read_text("utf-8") for name, path in _PARTS.items()}
        environment = Environment(autoescape=True)
        environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "separators": (",", ":")}
        template = environment.from_string(parts["html"])
        order = sorted(self._data["rounds"], key=lambda name: (len(name), name))
        data = {**self._data, "rounds": {name: self._data["rounds"][name] for name in order}}
        return template.render(data=data, title=self._data["title"], style=parts["css"], script=parts["js"])


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
    report._data |= json.loads(found[1])
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
    partial.write_text(report.page(), "utf-8")
    partial.replace(file)
    return file
