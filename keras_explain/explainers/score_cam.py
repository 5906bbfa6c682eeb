"""Score-CAM, computed by tf-keras-vis: the channels of one layer, weighted by the class probability behind each."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import keras
import numpy as np

from keras_explain.activations import exchanged
from keras_explain.errors import InputError, MissingExtra, check_counts
from keras_explain.explainers.cam import map_layer
from keras_explain.explainers.masking import shared
from keras_explain.gradients import Scorer
from keras_explain.records import Attribution, Samples


@dataclass(frozen=True)
class ScoreCam:
    """Score-CAM: the channels A_k of a layer, each weighted by the class probability of the image seen through it.

        L = ReLU(sum over k of w_k A_k),   w_k = softmax(f(x * A_k scaled to 0..1))[target]

    computed by the tf-keras-vis package, on the TensorFlow backend. It takes one forward pass for every channel.

    Args:
        layer: name of a layer of the model itself, not of a nested one; None takes its last one whose output is a map.
        channels: only so many channels, those that vary most over the image (Faster Score-CAM); None takes all.

    Raises:
        InputError: another backend; at use, a model that is not a functional or sequential one of a single output, a
            one-unit sigmoid, bfloat16, no such layer or more channels than it has.
        MissingExtra: tf-keras-vis is not installed.

    Examples:
        >>> import keras, numpy as np, keras_explain as kx
        >>> layers = [keras.Input((8, 8, 1)), keras.layers.Conv2D(3, 3), keras.layers.GlobalAveragePooling2D()]
        >>> model = keras.Sequential([*layers, keras.layers.Dense(2, activation="softmax")])
        >>> if keras.backend.backend() == "tensorflow":
        ...     found = kx.explain(model, np.ones((1, 8, 8, 1)), "score_cam", targets=0)

    References:
        Wang et al. 2020, Score-CAM; tf-keras-vis for the faster variant. Known criticism: an image multiplied by a map
        is black where the map is 0, which no training image is; thousands of passes for deep layers.
    """

    method: ClassVar[str] = "score_cam"
    layer: str | None = None
    channels: int | None = None

    def __post_init__(self) -> None:
        check_counts(1, channels=self.channels)
        if keras.backend.backend() != "tensorflow":
            raise InputError(
                f"ScoreCam is computed by tf-keras-vis on TensorFlow alone; Keras runs on {keras.backend.backend()!r}. "
                "Use 'grad_cam', or 'occlusion' or 'rise', which too take forward passes only."
            )

    def explain(self, scorer: Scorer, samples: Samples) -> Attribution:
        """One map for each image and target."""
        model, images, head = scorer.model, samples.images, scorer.head(samples.images)
        if not getattr(model, "outputs", None) or len(model.outputs) != 1 or head.binary:
            raise InputError(
                f"'{model.name}' is subclassed, has several outputs or one sigmoid unit, which ScoreCam (tf-keras-vis) "
                "cannot explain; 'grad_cam' can."
            )
        path, layer = map_layer(scorer, images[:1], self.layer)
        if isinstance(layer, keras.Model) or all(own is not layer for own in model.layers):
            raise InputError(f"ScoreCam cannot reach '{path}', a nested model or a layer in one; 'grad_cam' can.")
        if len(layer.output.shape) != images.ndim:
            raise InputError(f"layer '{path}' gives no map of the image.")
        if layer.compute_dtype == "bfloat16":
            raise InputError(f"ScoreCam (tf-keras-vis) cannot enlarge the bfloat16 maps of '{path}'; 'grad_cam' can.")
        count = int(layer.output.shape[-1])
        if self.channels is not None and self.channels > count:
            raise InputError(f"channels must be at most those of '{path}', {count}; got {self.channels}.")
        options = {"penultimate_layer": layer, "seek_penultimate_conv_layer": False, "normalize_cam": False}
        with exchanged(head.switched()):
            visualizer = _scorecam(model)
            # One image at a time, since the channels that it chooses would be those of all.
            maps = [
                visualizer(_category(target), image[None], max_N=self.channels, **options)[0]
                for image, targets in zip(images, samples.targets, strict=True)
                for target in targets
            ]
        score = np.take_along_axis(scorer.logits(images), samples.targets, axis=1)
        scorer.evaluations += samples.targets.size * (self.channels or count)
        return Attribution(
            method=self.method,
            values=shared(np.stack(maps), images.shape[-1]),
            targets=samples.targets.reshape(-1),
            rows=samples.rows,
            score=score.reshape(-1),
            unit="weighted activation",
            settings={"layer": self.layer, "layer_found": path, "channels": self.channels},
        )


def _scorecam(model: keras.Model) -> Any:
    """tf-keras-vis on a model of its own with the same layers, since `predict` keeps what it has traced."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of SciPy, where tf-keras-vis 0.8.7 finds `zoom`
        try:
            from tf_keras_vis.scorecam import Scorecam
        except ImportError as error:
            raise MissingExtra("ScoreCam needs tf-keras-vis: pip install tf-keras-vis") from error
    twin = keras.Model(model.inputs, model.outputs)
    twin.predict = functools.partial(twin.predict, verbose=0)
    return Scorecam(twin, clone=False)


def _category(target: int) -> Any:
    from tf_keras_vis.utils.scores import CategoricalScore

    return CategoricalScore(int(target))
