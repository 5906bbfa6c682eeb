"""What the callback asks of a tracker, and the names under which rounds are kept."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

ROOT = "explanations"
PAGE = f"{ROOT}/report.html"


def round_name(step: int) -> str:
    """Folder of the round of one epoch."""
    return f"epoch_{step:04d}"


def step_of(name: str) -> int | None:
    """The epoch of a folder, None if it is none of a round."""
    found = re.fullmatch(r"epoch_(\d{4,})", name)
    return int(found[1]) if found else None


@runtime_checkable
class Tracker(Protocol):
    """What the callback needs of a tracker; any object with these three methods will do."""

    def start(self, settings: Mapping[str, Any]) -> None:
        """Called on the training thread before the first round; the settings describe all rounds.

        Among them is `initial_epoch`, above 0 where a training goes on.
        """

    def log_round(self, step: int, folder: Path, numbers: Mapping[str, float]) -> None:
        """Keep the files of `folder`, pictures at its top included, and the numbers, at one step. On another thread.

        A step may come again: with further numbers, or from a training that goes on. Where the round is safe but has
        not arrived, raise `keras_explain.errors.Unsent`.
        """

    def finish(self) -> None:
        """Called after the last round."""


@runtime_checkable
class KeepsHistory(Protocol):
    """What a tracker has beside, if it keeps a page that grows with the rounds, and says what went wrong."""

    def steps(self) -> Collection[int]:
        """The epochs whose rounds an earlier training has left, where it goes on."""

    def report(self) -> str:
        """The page that an earlier training has left, "" if there is none."""

    def log_report(self, file: Path) -> None:
        """Keep a page, in the place of the one before; its file is gone afterwards. On the thread of `log_round`."""

    def log_trouble(self, what: str, words: str) -> None:
        """Keep what went wrong, once for each `what`; of the training itself, `errors.FIT`."""
