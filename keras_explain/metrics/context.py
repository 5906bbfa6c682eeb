"""What a metric is given, and what it must be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from keras_explain.explainers import Explainer
from keras_explain.gradients import Scorer
from keras_explain.records import Attribution, Samples


@dataclass(frozen=True)
class Context:
    """All that a metric may need beside the attribution.

    Args:
        scorer: of the explained model.
        samples: that were explained.
        explainer: that made the attribution, for metrics that explain again; None where it is not at hand.
        others: what other methods say of the same samples.
        before: samples and attribution of the same method in the previous round.
        evaluations: that the explainer took for each map; None where they were not counted.
    """

    scorer: Scorer
    samples: Samples
    explainer: Explainer | None = None
    others: Sequence[Attribution] = ()
    before: tuple[Samples, Attribution] | None = None
    evaluations: float | None = None


@runtime_checkable
class Metric(Protocol):
    """Anything that can measure; a user's own object with these is accepted wherever a metric's name is."""

    @property
    def when(self) -> str:
        """`"round"`, or `"last"` for what is measured in the last round of a training only."""

    def measure(self, attribution: Attribution, context: Context) -> Mapping[str, np.ndarray]:
        """Numbers by name, one for each row of the attribution; none where the metric does not apply to the method."""
