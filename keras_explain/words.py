"""Methods in the words of people: their names, what each says, and where it is known to mislead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from keras_explain.records import Attribution


class Method(NamedTuple):
    """What a reader must know of a method before its map."""

    title: str
    says: str
    failing: str


METHODS = {
    "vanilla": Method(
        "Gradient",
        "How the score of the class would change with a small change of each pixel.",
        "Noisy, and small where the network is saturated, although the pixels matter there.",
    ),
    "guided": Method(
        "Guided backpropagation",
        "The gradient with only positive parts passed back through open ReLUs.",
        "Looks sharp because it partly redraws the image; reacts little to the upper layers. No evidence on its own.",
    ),
    "rectified": Method(
        "Rectified gradient (deconvnet)",
        "The gradient with only positive parts passed back through every ReLU.",
        "Partly redraws the image and reacts little to the upper layers. No evidence on its own.",
    ),
    "smoothgrad": Method(
        "SmoothGrad",
        "The mean gradient over copies of the image with noise.",
        "The amount of noise is a choice, and the network never saw such images.",
    ),
    "integrated_gradients": Method(
        "Integrated Gradients",
        "What each pixel contributes to the change of the score from a baseline image to this one; it adds up.",
        "Pixels that equal the baseline get nothing: a black baseline is blind to black.",
    ),
    "gradient_shap": Method(
        "GradientSHAP",
        "What each pixel contributes compared with a background of real images, on average; it adds up.",
        "Depends on the background, and is an estimate from samples: mind its standard error.",
    ),
    "lime": Method(
        "LIME",
        "The weight of each superpixel in a linear model of the score as superpixels are hidden.",
        "Moves with the segmentation, the way of hiding and the seed; says little where R² is low.",
    ),
    "grad_cam": Method(
        "Grad-CAM",
        "Which places of a deep layer's maps speak for the class.",
        "Coarse; its smoothness is interpolation, and it can mark what the network did not use.",
    ),
    "grad_cam_plus_plus": Method(
        "Grad-CAM++",
        "As Grad-CAM, with positive gradients alone.",
        "Coarse; its smoothness is interpolation, and it can mark what the network did not use.",
    ),
    "score_cam": Method(
        "Score-CAM",
        "A deep layer's maps, each weighted by the probability of the class behind it.",
        "Coarse, and the network never saw images that are masked so.",
    ),
    "occlusion": Method(
        "Occlusion",
        "How far the score falls when a window around the pixel is hidden.",
        "What only several windows together would change is not seen.",
    ),
    "rise": Method(
        "RISE",
        "How much higher the score is where random masks show the pixel.",
        "An estimate from samples: what stays below two standard errors is speckle.",
    ),
}


def about(method: str) -> Method:
    """The words of a method; of a user's own, its name.

    Args:
        method: as in `Attribution.method`.
    """
    return METHODS.get(method, Method(method.replace("_", " "), "", ""))


def titles(attributions: Sequence[Attribution]) -> list[str]:
    """A title for each of several attributions; those of one method are told apart by the settings that differ.

    Args:
        attributions: shown side by side.

    Examples:
        >>> import numpy as np, keras_explain as kx
        >>> from keras_explain.words import titles
        >>> maps = [kx.Attribution("rise", np.ones((1, 2)), [0], [0], [0.0], settings={"masks": n}) for n in (9, 99)]
        >>> titles(maps)
        ['RISE, masks 9', 'RISE, masks 99']
    """
    found: list[str] = []
    for attribution in attributions:
        alike = [other.settings for other in attributions if other.method == attribution.method]
        differ = [
            f"{name.replace('_', ' ')} {value}"
            for name, value in attribution.settings.items()
            if any(settings.get(name) != value for settings in alike)
        ]
        title = ", ".join([about(attribution.method).title, *differ])
        again = sum(other == title or other.startswith(f"{title} (") for other in found)
        found.append(f"{title} ({again + 1})" if again else title)
    return found
