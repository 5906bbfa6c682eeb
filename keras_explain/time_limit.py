"""A limit for what may never end."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from keras_explain.errors import OutOfTime


class _Stop(BaseException):
    """What a block that catches every `Exception` does not catch."""


@contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    """Raise `OutOfTime` in the block after so many seconds, whatever it does in Python, and as often again.

    It works by the timer signal, so on the main thread of Unix only, and not where something else uses that timer; in
    other places the block has its own end.

    Args:
        seconds: above 0; infinite is no limit.
    """
    here = threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer")
    if not here or math.isinf(seconds) or signal.getitimer(signal.ITIMER_REAL)[0]:
        yield
        return

    def stop(*_: Any) -> None:
        raise _Stop

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, max(1.0, seconds))
    try:
        yield
    except _Stop:
        raise OutOfTime(f"It took more than {seconds:g} s.") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
