"""Rounds of explanation -> one self-contained HTML page: no network, no other file, one small script."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_explain.errors import InputError, MissingExtra
from keras_explain.figures import panel, slices
from keras_explain.records import Attribution, Samples, load_round

_TEMPLATE = Path(__file__).with_name("page.html")


def write_report(folder: str | Path, file: str | Path, title: str = "Explanations") -> Path:
    """Write a page of the pictures, numbers and settings of explained rounds.

    Volumes get a slider through their slices beside the projections. A round that has no pictures, as `kx.save_round`
    leaves it, is drawn.

    Args:
        folder: of one round, or of several as a tracker keeps them, such as `runs/one/explanations`.
        file: the HTML file.
        title: of the page.

    Returns:
        The file.

    Raises:
        InputError: a folder without rounds.
        MissingExtra: jinja2 is not installed.

    Example:
        >>> import numpy as np, keras_explain as kx
        >>> from keras_explain.report import write_report
        >>> samples = kx.Samples(np.zeros((1, 8, 8, 1)), [0])
        >>> found = kx.Attribution("mine", np.ones((1, 8, 8, 1)), [0], [0], score=[64.0], base_score=[0.0])
        >>> kx.save_round("round", samples, [found], {"title": "by hand"})
        >>> write_report("round", "report.html").stat().st_size > 10_000
        True
    """
    try:
        from jinja2 import Environment
    except ImportError as error:
        raise MissingExtra("Reports need jinja2: pip install jinja2") from error
    folder, file = Path(folder), Path(file)
    several = sorted(folder.glob("epoch_*"), key=lambda place: (len(place.name), place.name))
    places = [folder] if (folder / "settings.json").is_file() else several
    rounds = [_round(place) for place in places if (place / "settings.json").is_file()]
    if not rounds:
        raise InputError(f"{folder} holds no round; give the folder of one, such as epoch_0004, or of several.")
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(_TEMPLATE.read_text("utf-8"))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(page.render(title=title, rounds=rounds), "utf-8")
    return file


def _round(place: Path) -> dict[str, Any]:
    samples, attributions, settings = load_round(place)
    title = settings.get("title", place.name)
    pictures = [(path.stem, path.read_bytes()) for path in sorted(place.glob("*.png"))]
    curves = [_inline(picture) for name, picture in pictures if name == "over_training"]
    panels = [(name, picture) for name, picture in pictures if name != "over_training"] or [
        (samples.ids[i], _drawn(panel(samples[[i]], [a.of(i) for a in attributions], title=title)))
        for i in range(len(samples))
    ]
    known = ("title", "numbers", "failures", "versions")
    return {
        "title": title,
        "accuracy": samples.accuracy,
        "curves": curves[0] if curves else None,
        "panels": [(name, _inline(picture)) for name, picture in panels],
        "volumes": _volumes(samples, attributions) if samples.images.ndim == 5 else [],
        "numbers": sorted(settings.get("numbers", {}).items()),
        "failures": sorted(settings.get("failures", {}).items()),
        "versions": sorted(settings.get("versions", {}).items()),
        "settings": [(name, value) for name, value in settings.items() if name not in known],
    }


def _drawn(figure: Any) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def _volumes(samples: Samples, attributions: Sequence[Attribution]) -> list[dict[str, Any]]:
    """For each map and channel its slices in one picture, one below the other."""
    found = []
    for attribution in attributions:
        for r, row in enumerate(attribution.rows):
            target = samples.class_name(int(attribution.targets[r]))
            about = f"image {samples.ids[row]}: {attribution.method.replace('_', ' ')}, why {target}?"
            strips = []
            for k in range(samples.images.shape[-1]):
                pictures, limit = slices(
                    samples.images[row], attribution.values[r], k, samples.roi[row] if len(samples.roi) else None
                )
                depth, height, width, _ = pictures.shape
                strips.append(
                    {
                        "name": samples.channel_name(k),
                        "picture": _inline(_png(pictures.reshape(depth * height, width, 3))),
                        "shape": f"{width} / {height}",
                    }
                )
            scale = f"full red at {limit:.2g}, full blue at {-limit:.2g} {attribution.unit}"
            found.append({"about": about, "scale": scale, "depth": samples.images.shape[1], "strips": strips})
    return found


def _png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _inline(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
