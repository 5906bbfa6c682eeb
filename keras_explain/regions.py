"""Where the finding of each image is: regions of interest in every form that they are given in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_explain.batches import told
from keras_explain.errors import InputError


def regions_of(data: Any) -> Any:
    """The regions of interest that a data set tells itself, as `roi` of `select`; None if it does not."""
    return told(data, "roi")


def check_roi(roi: Any, data: Any) -> None:
    """Raise for what can not be the regions of these data, as far as it can be told before they are read.

    Args:
        roi: as in `select`.
        data: as in `select`; for arrays, number and shape of the images are known.
    """
    if roi is None or callable(roi):
        return
    if isinstance(roi, (str, bytes)) or not (isinstance(roi, Mapping) or hasattr(roi, "__getitem__")):
        raise InputError(f"roi must be a dict or function of an image's id, or a sequence; got {type(roi).__name__}.")
    if not (isinstance(data, (tuple, list)) and len(data) and hasattr(data[0], "shape")):
        return
    images = data[0]
    if isinstance(roi, Mapping):
        regions = {str(name): region for name, region in roi.items()}
    elif len(roi) == len(images):
        regions = {str(position): region for position, region in enumerate(roi)}
    else:
        raise InputError(f"roi has {len(roi)} entries for {len(images)} images.")
    for name, region in regions.items():
        if isinstance(region, np.ndarray):
            _mask(region, name, tuple(images.shape[1:-1]))


def region_of(roi: Any, name: str, position: int, shape: tuple[int, ...]) -> np.ndarray:
    """The mask of one image, empty where it has none.

    Args:
        roi: as in `select`, its names as text.
        name: the image's id.
        position: of the image in the data.
        shape: of the mask.
    """
    if callable(roi):
        try:
            found = roi(name)
        except Exception as error:
            raise InputError(f"roi({name!r}) failed. {type(error).__name__}: {error}") from error
    elif isinstance(roi, Mapping):
        found = roi.get(name)
    elif position < len(roi):
        found = roi[position]
    else:
        raise InputError(f"roi has {len(roi)} entries, and the data an image at position {position}.")
    return _mask(found, name, shape)


def _mask(region: Any, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if region is None:
        return np.zeros(shape, bool)
    if not hasattr(region, "mask") and not isinstance(region, (np.ndarray, list)):
        kind = type(region).__name__
        raise InputError(f"roi of image {name} is a {kind}; give a mask, None or Roi({shape}, [shapes]).")
    mask = np.asarray(region.mask() if hasattr(region, "mask") else region)
    if mask.dtype.kind not in "buif" or mask.shape != shape:
        raise InputError(f"roi of image {name} has shape {mask.shape}; the image has {shape}.")
    if not np.isfinite(mask).all():
        raise InputError(f"roi of image {name} has NaN or infinite entries; give 0 and 1.")
    return mask > 0
