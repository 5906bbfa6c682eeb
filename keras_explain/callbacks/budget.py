"""What rounds have cost, what the next one may take, and what all of them will come to."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from keras_explain.engine import Round


class Budget:
    """The seconds of a training and of its rounds.

        spent on rounds <= share * (seconds of training that are behind and, like the last epoch, still ahead)

    Args:
        share: `max_overhead` of the callback; None is no limit.
    """

    def __init__(self, share: float | None):
        self.share = share
        self.prices: dict[str, float] = {}  # seconds of each part of a round, as far as they are known
        self.trained = self.epoch = self.spent = 0.0
        self.rounds = 0
        self._clock = time.perf_counter()

    def epoch_begins(self) -> None:
        """What follows is training."""
        self._clock = time.perf_counter()

    def epoch_ends(self) -> None:
        """What follows is not."""
        self.epoch = time.perf_counter() - self._clock
        self.trained += self.epoch

    @property
    def price(self) -> float:
        """Seconds of a whole round, as far as they are known."""
        return sum(self.prices.values())

    def expected(self, ahead: int) -> float:
        """Seconds of training, rounds not counted, when so many further epochs are done."""
        return self.trained + ahead * self.epoch

    def allowed(self, ahead: int) -> float:
        """Seconds that a round may take now: a quarter of all for the first, later what leaves room for the last."""
        if self.share is None or not self.trained:  # a training that goes on makes up for a round first
            return math.inf
        left = self.share * self.expected(ahead) - self.spent
        if not ahead:
            return left
        # The first epoch compiles, and is often twice as long as those after it; what is drawn is not counted yet.
        return left - self.price if self.rounds else left / 4

    def affordable(self, methods: Sequence[str], allowed: float, ahead: int) -> list[str]:
        """All methods if a whole round is allowed; else none, or in the last round those that fit, in their order."""
        if self.price <= allowed:
            return list(methods)
        chosen = []
        left = allowed - sum(price for part, price in self.prices.items() if part not in methods)
        for name in methods if not ahead else ():
            price = self.prices.get(name, 0.0)  # of what has never begun, the time limit will decide
            if price <= left and left > 0:
                left -= price
                chosen.append(name)
        return chosen

    def learn(self, found: Round, methods: Sequence[str]) -> None:
        """Keep what the parts of a round took; twice the time after which a method was stopped.

        Args:
            found: the round; where some classes have no image, methods are taken to be dearer in proportion.
            methods: those that were tried. Of one that was stopped before it began nothing is known.
        """
        self.prices["selecting"] = found.seconds["selecting"]
        share = len(found.samples) / max(1, len(found.samples) + len(found.samples.missing))
        for name in methods if share else ():
            taken = found.seconds[name] + found.seconds.get(f"measuring {name}", 0.0)
            if name not in found.stopped or found.evaluations[name]:
                self.prices[name] = (2 if name in found.stopped else 1) * taken / share

    def drawn(self, seconds: float, waited: float) -> None:
        """Count the drawing of a round: its seconds of a core, or those that were waited for it."""
        self.prices["drawing"] = seconds
        self.spent += max(seconds, waited)

    def forecast(self, rounds: int, ahead: int) -> str:
        """In words, after the first of so many rounds, what they come to."""
        share = (self.spent + (rounds - 1) * self.price) / max(self.expected(ahead), 1e-9)
        parts = ", ".join(f"{part} {price:.1f}" for part, price in self.prices.items())
        words = (
            f"the first round took {self.spent:.1f} s, compiling included. One round takes about {self.price:.1f} s "
            f"({parts}), and what drawing it takes in the background. {rounds} rounds would be about {100 * share:.3g} % "
            "of a training whose epochs are all as long as the last one, drawing not counted"
        )
        return words + ("." if self.share is None else f"; max_overhead allows {100 * self.share:g} %.")

    def account(self) -> str:
        """In words, what all rounds have come to."""
        return (
            f"{self.rounds} rounds took {self.spent:.1f} s, {100 * self.spent / max(self.trained, 1e-9):.3g} % of the "
            f"{self.trained:.1f} s of training; drawing is counted by the time of its one core."
        )
