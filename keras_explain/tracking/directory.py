"""Rounds in a folder."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from keras_explain.tracking.protocol import PAGE, ROOT, round_name, step_of


class DirectoryTracker:
    """Keeps rounds in a folder, in the same tree as `MlflowTracker`, with numbers in `metrics.csv`.

    A training that begins with its first epoch leaves an earlier one alone, whose folder becomes `explanations-1`; one
    that goes on (`initial_epoch`) joins it, and what it does again replaces what was there. Whatever is written appears
    whole or not at all.

    Args:
        folder: created if needed; rounds go to `folder/explanations/epoch_0004`.

    Examples:
        >>> import keras_explain as kx
        >>> tracker = kx.DirectoryTracker("runs/one")
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._about: dict[str, Any] = {}
        self._begun = False
        self._done: set[int] = set()  # steps of this training

    def start(self, settings: Mapping[str, Any]) -> None:
        """Make the folder; the settings are written with the first round."""
        self._about, self._begun, self._done = dict(settings), False, set()
        (self.folder / ROOT).mkdir(parents=True, exist_ok=True)

    def _begin(self) -> None:
        """Set an earlier training aside, unless this one goes on from it."""
        if self._begun:
            return
        root, first = self.folder / ROOT, int(self._about.get("initial_epoch", 0))
        if first == 0 and any(root.glob("epoch_*")):
            free = (self.folder / f"{ROOT}-{k}" for k in range(1, 10**6))
            root.rename(next(place for place in free if not place.exists()))
            root.mkdir()
        if first and (root / "run.json").is_file():  # what went wrong before
            self._about["trouble"] = json.loads((root / "run.json").read_text("utf-8")).get("trouble", {})
        self._begun = True
        self._tell()

    def log_round(self, step: int, folder: Path, numbers: Mapping[str, float]) -> None:
        """Copy one round, and add its numbers."""
        self._begin()
        root = self.folder / ROOT
        partial, old = root / f".{round_name(step)}.partial", root / f".{round_name(step)}.old"
        for left in (partial, old):
            shutil.rmtree(left, ignore_errors=True)
        shutil.copytree(folder, partial)
        if (root / round_name(step)).exists():
            (root / round_name(step)).rename(old)
        partial.rename(root / round_name(step))
        shutil.rmtree(old, ignore_errors=True)
        again = (
            numbers.keys() if step in self._done else {row[1] for row in self._rows()}
        )  # else of an earlier training
        self._done.add(step)
        kept = [row for row in self._rows() if int(row[0]) != step or row[1] not in again]
        new = [[str(step), name, repr(float(value))] for name, value in numbers.items()]
        self._write("metrics.csv", _table([*kept, *new]))

    def _rows(self) -> list[list[str]]:
        path = self.folder / ROOT / "metrics.csv"
        if not path.exists():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.reader(file))[1:]

    def _tell(self) -> None:
        self._write("run.json", json.dumps(self._about, indent=1, default=str))

    def _write(self, name: str, text: str) -> None:
        self._replace(name, lambda partial: partial.write_text(text, "utf-8"))

    def _replace(self, name: str, fill: Callable[[Path], object]) -> None:
        partial = self.folder / ROOT / f".{name}.partial"
        fill(partial)
        partial.replace(self.folder / ROOT / name)

    def steps(self) -> Collection[int]:
        """The epochs in the folder."""
        found = (step_of(path.name) for path in (self.folder / ROOT).glob("epoch_*"))
        return {step for step in found if step is not None}

    def report(self) -> str:
        """The page in the folder."""
        file = self.folder / PAGE
        return file.read_text("utf-8") if file.is_file() else ""

    def log_report(self, file: Path) -> None:
        """Copy the page, in the place of an earlier one when it is whole."""
        self._begin()
        self._replace(Path(PAGE).name, lambda partial: shutil.copyfile(file, partial))

    def log_trouble(self, what: str, words: str) -> None:
        """Write it into `run.json`."""
        self._begin()
        self._about.setdefault("trouble", {}).setdefault(what, words)
        self._tell()

    def finish(self) -> None:
        """Nothing is left open."""

    @property
    def where(self) -> str:
        """Where to look, in words."""
        return str(self.folder / ROOT)


def _table(rows: Any) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([["step", "name", "value"], *rows])
    return text.getvalue()
