"""What a callback has found -> the tracker, on a thread of its own, with the page of all rounds and what went wrong."""

from __future__ import annotations

import atexit
import copy
import shutil
import sys
import tempfile
import threading
import time
import warnings
import weakref
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from keras_explain.engine import History, Round, finite, plain_name, versions, write_round
from keras_explain.errors import FIT, ExplainError, ExplanationWarning, Unsent
from keras_explain.report import Report, write_page
from keras_explain.tracking import PAGE, KeepsHistory, Tracker, round_name


# Keras tells nobody that a fit was interrupted: the next fit, or the end of the process, finds what is still open.
_open: list[Publisher] = []


class NotLogged(ExplainError):
    """A round that was not logged, with its epoch."""

    def __init__(self, words: str, epoch: int):
        super().__init__(words)
        self.epoch = epoch


class Publisher:
    """Draws and logs the rounds of one fit.

    Args:
        owner: the callback.
        tracker: where they go.
        settings: of the callback, for the tracker and each round.
        title: of the page.
        rounds: that are expected.
        first: epoch of the fit, above 0 where a training goes on.
    """

    def __init__(self, owner: Any, tracker: Tracker, settings: Mapping[str, Any], title: str, rounds: int, first: int):
        self.tracker = tracker
        self.history = History()
        self.last = -1  # epoch that fit has ended
        self._settings, self._first = dict(settings), first
        self._trouble: dict[str, str] = {}
        self._report = Report(title, rounds)
        self._joined = first == 0  # whether the page has what an earlier training has left
        self._shown: dict[str, str] = {}  # of the trouble, what the page says
        self._worker = ThreadPoolExecutor(1, "keras-explain")
        self._pending: Future[float] | None = None
        about = {**self._settings, "initial_epoch": first, **{f"version.{k}": v for k, v in versions().items()}}
        self._owner, self._thread = weakref.ref(owner), threading.get_ident()
        self._in_fit = self._is_in_fit()
        tracker.start(about)
        _open.append(self)

    def _is_in_fit(self) -> bool:
        """Whether the fit of the callback is going on, in the thread in which it began."""
        model = getattr(self._owner(), "model", None)
        frame = sys._current_frames().get(self._thread)
        while frame is not None and model is not None:
            if frame.f_code.co_name == "fit" and frame.f_locals.get("self") is model:
                return True
            frame = frame.f_back
        return False

    def is_abandoned(self) -> bool:
        """Whether no callback will close it: a notebook keeps those of interrupted fits."""
        return self._owner() is None or (self._in_fit and not self._is_in_fit())

    def hand_over(self, found: Round, epoch: int, numbers: Mapping[str, float]) -> None:
        """Draw and log a round while training goes on.

        Args:
            found: the round.
            epoch: its step.
            numbers: that the tracker does not have yet.
        """
        self.history.add(epoch, found)
        history, trouble = copy.deepcopy(self.history), dict(self._trouble)
        self._pending = self._worker.submit(self._publish, found, history, epoch, finite(numbers), trouble)

    def _publish(
        self, found: Round, history: History, epoch: int, numbers: dict[str, float], trouble: dict[str, str]
    ) -> float:
        """On the background thread; the seconds of a core that it took."""
        begun = time.thread_time()
        folder = Path(tempfile.mkdtemp(prefix=f"keras-explain-{round_name(epoch)}-"))
        unsent: Unsent | None = None
        try:
            settings = {**self._settings, "epoch": epoch, "trouble": trouble}
            stored = write_round(folder, found, history, f"epoch {epoch + 1}", settings)
            try:
                self.tracker.log_round(epoch, folder, numbers)
            except Unsent as error:
                unsent = error
            self._report.add(round_name(epoch), *stored)
            self._keep_page(trouble)
        except Exception as error:
            words = f"{type(error).__name__}: {error} (what was computed is kept in {folder})"
            raise NotLogged(words, epoch) from error
        shutil.rmtree(folder)
        if unsent is not None:
            raise unsent
        return time.thread_time() - begun

    def _keep_page(self, trouble: Mapping[str, str]) -> None:
        """Refresh the page of all rounds, those of an earlier training of the same run among them."""
        if not isinstance(self.tracker, KeepsHistory):
            return
        self._join(self.tracker)
        self._report.tell(trouble)
        folder = Path(tempfile.mkdtemp(prefix="keras-explain-page-"))
        try:
            self.tracker.log_report(write_page(self._report, folder / Path(PAGE).name))
        finally:
            shutil.rmtree(folder)
        self._shown = dict(trouble)

    def settle(self) -> tuple[float, float] | None:
        """Wait for the round that is being logged, if any: the seconds of a core that it took, and those of waiting.

        Raises:
            Exception: whatever drawing or logging it has raised.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return None
        begun = time.perf_counter()
        return pending.result(), time.perf_counter() - begun

    def has(self, epoch: int) -> bool:
        """Whether the tracker keeps the round of an epoch, on its page too, or keeps nothing that could be asked for."""
        if not isinstance(self.tracker, KeepsHistory):
            return True
        self._join(self.tracker)
        return epoch in self.tracker.steps() and round_name(epoch) in self._report

    def goes_on(self) -> bool:
        """Whether the tracker keeps rounds of an earlier training."""
        return isinstance(self.tracker, KeepsHistory) and bool(self.tracker.steps())

    def _join(self, tracker: KeepsHistory) -> None:
        """Take over what an earlier training has left on the page."""
        if not self._joined:
            self._report.take_over(tracker.report(), before=self._first)
            self._joined = True

    def trouble(self, what: str, words: str) -> bool:
        """Keep what went wrong, in the run and on the page; False if it is known already.

        Args:
            what: that it went wrong with, such as a method.
            words: that say it.
        """
        name = plain_name(what)
        if name in self._trouble:
            return False
        self._trouble[name] = words
        if isinstance(self.tracker, KeepsHistory):
            self.tracker.log_trouble(name, words)
        return True

    def close(self) -> None:
        """Wait for what is still being logged, end the thread and close the tracker.

        Raises:
            Exception: whatever the page or the tracker has raised.
        """
        _open[:] = [publisher for publisher in _open if publisher is not self]
        self._worker.shutdown()
        try:
            if self._shown != self._trouble:
                self._keep_page(self._trouble)
        finally:
            self.tracker.finish()

    def abandon(self, by: str = "") -> str:
        """Close after a fit that has not ended as it should; in words, how.

        Args:
            by: what has ended it, where that is known.
        """
        words = f"fit was interrupted after epoch {self.last + 1}" if self.last >= 0 else "fit was interrupted"
        words += f" by {by}." if by else "."
        for action in (self.settle, lambda: self.trouble(FIT, words), self.close):
            try:
                action()
            except Exception as error:  # nothing of it may be lost for the rest
                words += f" {type(error).__name__}: {error}"
        return words


def close_abandoned(at_exit: bool = False) -> None:
    """Close what no callback will close any more.

    Args:
        at_exit: whatever is still open, since the process ends.
    """
    for publisher in list(_open):
        if at_exit or publisher.is_abandoned():
            error = getattr(sys, "last_value", None) if at_exit else None  # which Python has just shown
            words = publisher.abandon(type(error).__name__ if error is not None else "")
            warnings.warn(f"keras_explain: a {words}", ExplanationWarning, stacklevel=2)


atexit.register(close_abandoned, at_exit=True)
