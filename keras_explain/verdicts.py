"""From numbers to verdicts: what is said beside each map, and the thresholds behind it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from keras_explain.records import Attribution

MOST_RELATIVE_ERROR = 0.05
LEAST_R2 = 0.5
LEAST_BEYOND_NOISE = 0.1
LEAST_BACKGROUND = 0.01
GUESSING = 1.2  # times the chance level: an accuracy below it is that of guessing
# Measures that belong to the images and not to a method: the levels that others have by chance.
CHANCE = dict.fromkeys(("pointing_game", "relevance_mass", "relevance_rank", "auprc"), "roi_area") | {
    "border_share": "border_area"
}
# By the first words of a verdict that speaks against a map.
_ADVICE = {
    "empty": "The network does not react to this image at all: its units are dead or its score is constant.",
    "hardly differs": "What is seen is mostly sampling noise; more masks make it smaller.",
    "not complete": "The values do not add up to the change of the score; more steps or samples mend it.",
    "surrogate does not fit": "A linear model of superpixels does not describe the network here; do not read it.",
    "hiding changes": "The score stays the same whatever is hidden: is the range of the images right?",
    "fails randomization": "The map stays much the same when the network's weights are destroyed: it is no evidence of "
    "what was learned.",
    "about chance": "The map lies on the finding hardly more than a map would that ignores the image.",
    "not above chance": "The map lies on the finding no more than a map would that ignores the image.",
    "above chance on background": "More of the map lies on the background than its area explains: look for "
    "markers and borders that the network may have learned.",
}


class Verdict(NamedTuple):
    """A short statement and whether it speaks for the map."""

    words: str
    good: bool


def advice(verdict: Verdict) -> str:
    """What a verdict that speaks against a map means, in a sentence.

    Args:
        verdict: that is not good.
    """
    return next(sentence for words, sentence in _ADVICE.items() if verdict.words.startswith(words))


def verdicts(attribution: Attribution, r: int) -> list[Verdict]:
    """What can be said of one map; nothing of what was not measured.

    empty                no value of the map differs from 0
    stands out           of a sampled map that promises no sum (RISE): more than a tenth of the pixels lie beyond two
                         standard errors; noise alone puts one of twenty there (the tenth is ours)
    complete             relative completeness error at most 5 % (Sundararajan et al. 2017 advise it of the steps)
    surrogate fits       weighted R2 of LIME's surrogate at least 0.5 (a convention of this package)
    passes randomization less than half of the signed maps' rank correlation is left on average over the cascade, see
                         `keras_explain.metrics.Randomization` (Adebayo et al. 2018; the one half is ours)
    better than chance   AUPRC at least twice the region's share of the area, or half of the way from there to 1 if that
                         is less: the share is the chance level (Arun et al. 2021), the margin is ours
    below chance on background  share outside the breast, or whatever is shown, at most that of the area, in whole
                         percent; nothing is said of a background below 1 % (conventions of this package)

    Args:
        attribution: with `measures`, as `keras_explain.metrics.measure` gives it.
        r: the row.

    Examples:
        >>> import numpy as np, keras_explain as kx
        >>> from keras_explain.verdicts import verdicts
        >>> found = kx.Attribution("ig", np.ones((1, 2, 2, 1)), [0], [0], score=[5.0], base_score=[0.5])
        >>> verdicts(found, 0)
        [Verdict(words='not complete: misses 11 %', good=False)]
    """
    found = []
    if not attribution.values[r].any():
        found.append(Verdict("empty: nothing differs from 0", False))
    if len(attribution.standard_error) and np.isnan(attribution.base_score[r]):
        noise = 2 * np.linalg.norm(attribution.standard_error[r], ord=1, axis=-1)
        beyond = float((np.abs(attribution.flat[r]) > noise).mean())
        good = beyond > LEAST_BEYOND_NOISE
        words = f"{'stands out of' if good else 'hardly differs from'} noise: {beyond:.0%} of pixels"
        found.append(Verdict(words, good))
    error = attribution.relative_completeness_error[r]
    if np.isfinite(error):
        good = bool(error <= MOST_RELATIVE_ERROR)
        missed = f"{100 * error:.{0 if error >= 0.1 else 1}f} %" if error >= 1e-3 else "< 0.1 %"
        found.append(Verdict(f"{'complete' if good else 'not complete'}: misses {missed}", good))
    if "r2" in attribution.details:
        r2 = attribution.details["r2"][r]
        words = f"surrogate {'fits' if r2 >= LEAST_R2 else 'does not fit'}: R² {r2:.2f}"
        found.append(Verdict(words if np.isfinite(r2) else "hiding changes nothing", bool(r2 >= LEAST_R2)))
    measured = {name: rows[r] for name, rows in attribution.measures.items() if rows.ndim == 1 and np.isfinite(rows[r])}
    if "randomization_passed" in measured:
        good = bool(measured["randomization_passed"])
        found.append(Verdict(f"{'passes' if good else 'fails'} randomization", good))
    if measured.get("roi_area", 1.0) < 1 and "auprc" in measured:
        auprc, area = measured["auprc"], measured["roi_area"]
        good = bool(auprc >= min(2 * area, (1 + area) / 2))
        words = "better than chance" if good else "about chance" if auprc > area else "not above chance"
        found.append(Verdict(f"{words} at ROI: {auprc:.2g} vs {area:.2g}", good))
    if "border_share" in measured and measured.get("border_area", 0.0) >= LEAST_BACKGROUND:
        share, area = measured["border_share"], measured["border_area"]
        good = bool(round(share, 2) <= round(area, 2))  # as they are shown
        words = f"{'below' if good else 'above'} chance on background: {share:.0%} vs {area:.0%}"
        found.append(Verdict(words, good))
    return found
