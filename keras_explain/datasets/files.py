"""The pixels of a picture file: DICOM, or whatever Pillow reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_explain.errors import InputError, MissingExtra

_MOST_PIXELS = 178_956_970  # as Pillow's


def read_image(file: str | Path) -> np.ndarray:
    """The grey pixels (h, w) of a DICOM file or picture, bright where the breast is dense.

    From DICOM: what the file's window draws black and white (VOI LUT, or window centre and width) becomes 0 and 65535;
    without a window, the range of its bits does. MONOCHROME1, which draws low values bright, is turned round.

    Args:
        file: DICOM (`.dcm`, `.dicom`), or a picture such as JPEG, PNG or PGM, of which colours are made grey.

    Returns:
        uint16 for DICOM and pictures of 16 bits, uint8 for those of 8; a TIFF of other numbers as it is.

    Raises:
        InputError: no such file, or one that is cut off or has no grey pixels.
        MissingExtra: pydicom is not installed, and needed.
    """
    file = Path(file)
    if not file.is_file():
        raise InputError(f"{file} does not exist.")
    if file.suffix.lower() in (".dcm", ".dicom"):
        return _read_dicom(file)
    from PIL import Image

    try:
        with Image.open(file) as picture:
            # Pillow would cut whole numbers of 32 bits and fractions to 0..255; it gives some files of 16 bits as 32.
            pixels = np.asarray(picture if picture.mode.startswith(("I", "F")) else picture.convert("L"))
            sixteen = picture.mode == "I" and picture.format in ("PNG", "PPM")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{file} is no picture that can be read: {error}") from error
    return pixels.astype("uint16") if sixteen else pixels


def header(file: Path, name: str) -> str:
    """One entry of a DICOM file's header, "" if it has none.

    Args:
        file: the file.
        name: such as "SeriesInstanceUID".

    Raises:
        InputError: no DICOM file.
        MissingExtra: pydicom is not installed.
    """
    pydicom = _pydicom()
    try:
        return str(getattr(pydicom.dcmread(file, stop_before_pixels=True, specific_tags=[name]), name, ""))
    except (pydicom.errors.InvalidDicomError, OSError, EOFError) as error:
        raise InputError(f"{file} is no DICOM file: {error}") from error


def _pydicom() -> Any:
    try:
        import pydicom
    except ImportError as error:
        raise MissingExtra('DICOM files need pydicom: pip install "keras-explain-callbacks[dicom]"') from error
    return pydicom


def _read_dicom(file: Path) -> np.ndarray:
    pydicom = _pydicom()
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    try:
        dicom = pydicom.dcmread(file)
        told = int(dicom.Rows) * int(dicom.Columns) * int(dicom.get("NumberOfFrames") or 1)
        if told > _MOST_PIXELS:  # before memory is taken for them
            raise ValueError(f"it tells of {told} pixels, above {_MOST_PIXELS}")
        pixels = dicom.pixel_array
        kind, bits = str(dicom.PhotometricInterpretation), int(dicom.BitsStored)
        function = str(dicom.get("VOILUTFunction", None) or "LINEAR")
        windowed = dicom.get("WindowCenter") not in (None, "") and dicom.get("WindowWidth") not in (None, "")
        if dicom.get("VOILUTSequence"):
            values = apply_voi_lut(np.rint(apply_modality_lut(pixels, dicom)).astype("int32"), dicom)
            low, high = 0.0, 2.0 ** dicom.VOILUTSequence[0].LUTDescriptor[2] - 1
        elif windowed:
            values, (low, high) = apply_modality_lut(pixels, dicom), _window(dicom, exact=function != "LINEAR")
            if function == "SIGMOID":
                share = np.clip((values - low) / (high - low) - 0.5, -9, 9)
                values, low, high = 1 / (1 + np.exp(-4 * share)), 0.0, 1.0
        else:
            values, (low, high) = apply_modality_lut(pixels, dicom), _range(dicom, bits)
    except Exception as error:  # pydicom and its decoders raise many kinds
        raise InputError(f"{file} is no DICOM picture that can be read: {type(error).__name__}: {error}") from error
    if not kind.startswith("MONOCHROME") or values.ndim != 2:
        raise InputError(f"{file} is {kind} of shape {values.shape}; one grey picture is expected.")
    share = np.clip((values.astype("float64") - low) / max(high - low, 1e-12), 0, 1)
    return np.rint(65535 * (1 - share if kind == "MONOCHROME1" else share)).astype("uint16")


def _range(dicom: Any, bits: int) -> tuple[float, float]:
    """The lowest and highest value that a pixel of so many bits can have after the modality's transform."""
    if dicom.get("ModalityLUTSequence"):
        return 0.0, 2.0 ** dicom.ModalityLUTSequence[0].LUTDescriptor[2] - 1
    lowest = -(2.0 ** (bits - 1)) if dicom.PixelRepresentation else 0.0
    slope, intercept = float(dicom.get("RescaleSlope", 1)), float(dicom.get("RescaleIntercept", 0))
    low, high = sorted(slope * end + intercept for end in (lowest, lowest + 2.0**bits - 1))
    return low, high


def _window(dicom: Any, exact: bool) -> tuple[float, float]:
    """What is drawn black and white by the first window of a file (DICOM PS3.3, C.11.2.1.2 and C.11.2.1.3)."""
    centre, width = (
        float(value[0] if isinstance(value, Sequence) and not isinstance(value, str) else value)
        for value in (dicom.WindowCenter, dicom.WindowWidth)
    )
    if exact:
        return centre - width / 2, centre + width / 2
    return centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2
