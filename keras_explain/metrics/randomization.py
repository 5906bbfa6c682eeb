"""Does the explanation change when the model forgets what it has learned?"""

from __future__ import annotations

import copy
import functools
import itertools
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

import keras
import numpy as np

from keras_explain.errors import InputError, check_counts
from keras_explain.gradients import Scorer
from keras_explain.metrics.context import Context
from keras_explain.metrics.similarity import spearman, ssim
from keras_explain.observer import kept
from keras_explain.outputs import beside, called
from keras_explain.records import Attribution

MOST_RANK_LEFT = 0.5
_MOST_PAIRS = 50


@dataclass(frozen=True)
class Randomization:
    """The parameter randomization test: explain again while layers are re-initialised, from the output downwards.

    The layers with weights are taken in `stages` groups, the topmost layer alone first. Each group gets new values from
    its own initializers, on the live model; the trained values are put back to the bit at the end, also after an error.
    The maps of each stage are compared with those of the trained model:

        randomization_spearman           mean over stages of the rank correlation of the signed maps
        randomization_spearman_absolute  the same of the absolute maps
        randomization_ssim               mean over stages of the structural similarity
        randomization_passed             1 if the mean of `randomization_spearman` over the images is below 0.5, else 0;
                                         one verdict for the method
        randomization_arun               Arun's rule: 1 where `randomization_ssim` is below the mean structural
                                         similarity of (up to 50 pairs of) the trained model's maps of *different
                                         images*, which is kept as `randomization_ssim_of_images`

    The similarities at every stage are kept beside them as `..._stages`, (r, stages); a stage at which a map is
    constant, because the new values have killed every ReLU, is NaN and does not count. The first stage is the mean over
    new values w and -w of the topmost layer: a method that follows the model turns its map round, which one random draw
    alone would show by chance only. Evaluations: those of the method, `stages` + 1 times.

    Args:
        mode: `"cascading"` keeps the upper groups re-initialised; `"independent"` re-initialises one group at a time,
            and gives no verdict, since a map may rightly keep much of what the other groups have learned.
        stages: groups of layers, at most as many as there are layers with weights.
        limit: methods that would take more evaluations than this for each map are left out; None leaves out none.
        seed: of the new values.
        when: `"last"` or `"round"`.

    Raises:
        InputError: an unknown mode, fewer than one stage; at use, a model without weights or a missing explainer.

    Examples:
        >>> import keras, numpy as np, keras_explain as kx
        >>> layers = [keras.Input((16, 16, 1)), keras.layers.Flatten(), keras.layers.Dense(2, activation="softmax")]
        >>> samples = kx.Samples(np.random.default_rng(0).random((2, 16, 16, 1)), [0, 1])
        >>> model = keras.Sequential(layers)
        >>> found = kx.explain(model, samples, "vanilla")
        >>> numbers = kx.metrics.evaluate(model, samples, found, ["randomization"], explainer=kx.Saliency())
        >>> abs(numbers["randomization_spearman"]) < 1e-6, numbers["randomization_passed"]
        (True, 1.0)

    References:
        Adebayo et al. 2018, Sanity Checks for Saliency Maps; Arun et al. 2021. Known criticism: maps that share much of
        the image's structure stay alike for that reason (Binder et al. 2023), which is why the verdict rests on the
        signed maps; the order of the layers decides what is seen (Yona & Greenfeld 2021).
    """

    needs: ClassVar[str] = "a method within its limit of evaluations"
    mode: str = "cascading"
    stages: int = 8
    limit: float | None = None
    seed: int = 0
    when: str = "last"

    def __post_init__(self) -> None:
        if self.mode not in ("cascading", "independent"):
            raise InputError(f"mode must be 'cascading' or 'independent'; got {self.mode!r}.")
        check_counts(1, stages=self.stages)
        check_counts(0, seed=self.seed)
        if self.limit is not None and not self.limit > 0:
            raise InputError(f"limit must be positive or None; got {self.limit}.")

    def measure(self, attribution: Attribution, context: Context) -> dict[str, np.ndarray]:
        """The similarities and the verdict of each row."""
        if context.explainer is None:
            raise InputError("The randomization test explains again: give it the explainer.")
        if self.limit is not None and (context.evaluations or 0) * (self.stages + 1) > self.limit:
            return {}
        similarity: dict[str, Callable[..., np.ndarray]] = {
            "spearman": spearman,
            "spearman_absolute": functools.partial(spearman, absolute=True),
            "ssim": ssim,
        }
        stages: dict[str, list[np.ndarray]] = {name: [] for name in similarity}
        for maps in self._randomized(context):
            # New values can kill every ReLU; the map is then constant, which says nothing of the method.
            alive = np.all([np.ptp(values.reshape(len(values), -1), axis=1) > 0 for values in maps], axis=0)
            for name, compare in similarity.items():
                alike = np.mean([compare(attribution.values, values) for values in maps], axis=0)
                stages[name].append(np.where(alive, alike, np.nan))
        measured = {}
        for name, rows in stages.items():
            by_stage = np.stack(rows, axis=1)
            known = np.isfinite(by_stage)
            count = np.where(known.any(axis=1), known.sum(axis=1), np.nan)
            measured[f"randomization_{name}"] = np.where(known, by_stage, 0).sum(axis=1) / count
            measured[f"randomization_{name}_stages"] = by_stage
        reference = _ssim_of_images(attribution, self.seed)
        measured["randomization_ssim_of_images"] = np.full(len(attribution), reference)
        if self.mode == "cascading":
            known = np.isfinite(measured["randomization_spearman"])
            left = measured["randomization_spearman"][known].mean() if known.any() else np.nan
            measured["randomization_passed"] = np.full(len(attribution), _less(left, MOST_RANK_LEFT))
            measured["randomization_arun"] = _less(measured["randomization_ssim"], reference)
        return measured

    def _randomized(self, context: Context) -> list[list[np.ndarray]]:
        """The maps of every stage, explained on the live model; two of the first."""
        explainer: Any = copy.copy(context.explainer)  # LIME keeps what it found on itself

        def explained() -> np.ndarray:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that a random model is explained badly is what is asked
                return np.asarray(explainer.explain(context.scorer, context.samples).values)

        found = []
        with ExitStack() as cascade:
            for k, layers in enumerate(stages_of(context.scorer, context.samples.images[:1], self.stages)):
                with ExitStack() as stage:
                    keeper = cascade if self.mode == "cascading" else stage
                    keeper.enter_context(kept(v for layer in layers for v in own_weights(layer)))
                    for j, layer in enumerate(layers):
                        reinitialize(layer, [self.seed, k, j])
                    maps = [explained()]
                    if k == 0:
                        negate(layers[-1])
                        maps.append(explained())
                    found.append(maps)
        return found


def stages_of(scorer: Scorer, image: np.ndarray, stages: int) -> list[list[keras.layers.Layer]]:
    """The layers with weights from the output downwards: the topmost that multiplies, then the others in even groups.

    Args:
        scorer: of the model; layers that only lead to other outputs are left out.
        image: (1, *image shape), to see in which order layers are called.
        stages: groups at most; 1 is all layers at once.

    Raises:
        InputError: a model without weights.
    """
    aside = beside(scorer.model, scorer.head(image).key)
    layers = [layer for layer, _ in called(scorer.model, image) if own_weights(layer) and id(layer) not in aside][::-1]
    if not layers:
        raise InputError(f"'{scorer.model.name}' has no weights that could be randomized.")
    if stages == 1:
        return [layers]
    # A bias on top moves no gradient: the first group reaches down to what multiplies.
    top = 1 + next((i for i, layer in enumerate(layers) if _multipliers(layer)), 0)
    parts = np.array_split(np.arange(top, len(layers)), stages - 1)
    return [layers[:top], *([layers[i] for i in part] for part in parts if len(part))]


def own_weights(layer: keras.layers.Layer) -> list[Any]:
    """The weights that belong to a layer itself and not to its sublayers; no state of random generators."""
    inner = {id(v) for child in layer._flatten_layers(include_self=False) for v in child.variables}
    return [
        v
        for v in layer.weights
        if id(v) not in inner and np.dtype(keras.backend.standardize_dtype(v.dtype)).kind != "u"
    ]


def reinitialize(layer: keras.layers.Layer, seed: Sequence[int]) -> None:
    """Give a layer new values from its own initializers; a weight without one gets normal noise of its own spread.

    Args:
        layer: whose own weights are replaced.
        seed: whole numbers; the same give the same values.
    """
    for number, variable in enumerate(own_weights(layer)):
        random = np.random.default_rng([*seed, number])
        initializer = _initializer(layer, variable.name)
        if not keras.backend.is_float_dtype(variable.dtype):  # quantized: the same numbers at other places
            variable.assign(random.permutation(np.asarray(variable.numpy()).ravel()).reshape(variable.shape))
        elif initializer is not None:
            config = initializer.get_config()
            if "seed" in config:  # an initializer gives the same values again and again
                config["seed"] = int(random.integers(2**31))
            variable.assign(type(initializer).from_config(config)(variable.shape, variable.dtype))
        else:
            trained = np.asarray(variable.numpy(), "float64")
            variable.assign(random.normal(trained.mean(), trained.std(), trained.shape))


def _initializer(layer: keras.layers.Layer, name: str) -> Any:
    """Keras' own initializer of a weight; others may need arguments, or draw from generators that training uses."""
    names = (f"{name}_initializer", f"{name.removesuffix('_kernel')}_initializer", "depthwise_initializer")
    for found in (getattr(layer, attribute, None) for attribute in names):
        if isinstance(found, keras.initializers.Initializer) and type(found).__module__.startswith("keras."):
            return found
    return None


def negate(layer: keras.layers.Layer) -> None:
    """Turn the sign of what a layer multiplies with."""
    for variable in _multipliers(layer):
        variable.assign(-variable.value)


def _multipliers(layer: keras.layers.Layer) -> list[Any]:
    """The weights of two and more axes that learn, and the gamma of a normalisation; slopes of a PReLU turn nothing."""
    if isinstance(layer, keras.layers.PReLU):
        return []
    learned = {id(variable) for variable in layer.trainable_variables} if layer.trainable else None
    return [
        variable
        for variable in own_weights(layer)
        if (len(variable.shape) > 1 or variable.name == "gamma") and (learned is None or id(variable) in learned)
    ]


def _less(number: Any, limit: float) -> np.ndarray:
    """1 where a number is below the limit, 0 where not, NaN where either is unknown."""
    return np.where(np.isfinite(number) & np.isfinite(limit), np.less(number, limit), np.nan)


def _ssim_of_images(attribution: Attribution, seed: int) -> float:
    """Mean SSIM of pairs of maps of different images, at most 50 drawn at random; NaN where there is one image only."""
    pairs = [
        (i, j)
        for i, j in itertools.combinations(range(len(attribution)), 2)
        if attribution.rows[i] != attribution.rows[j]
    ]
    if not pairs:
        return np.nan
    chosen = np.random.default_rng(seed).permutation(len(pairs))[:_MOST_PAIRS]
    first, second = np.array(pairs)[chosen].T
    return float(ssim(attribution.values[first], attribution.values[second]).mean())
