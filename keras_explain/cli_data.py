"""What a command of `keras-explain` is about: its options of models and data, and the opening of both."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import click

from keras_explain.errors import InputError
from keras_explain.verdicts import GUESSING


class List(click.ParamType[tuple[str, ...]]):
    """Words between commas."""

    name = "a,b,..."

    def convert(self, value: Any, parameter: Any, context: Any) -> tuple[str, ...]:
        return value if isinstance(value, tuple) else tuple(part.strip() for part in value.split(",") if part.strip())


class ClassMap(click.ParamType[dict[int, int]]):
    """Pairs of data-set class and model output."""

    name = "1:0,3:1,..."

    def convert(self, value: Any, parameter: Any, context: Any) -> dict[int, int]:
        if isinstance(value, dict):
            return value
        try:
            return {int(label): int(output) for label, output in (pair.split(":") for pair in value.split(","))}
        except ValueError:
            self.fail(f"{value!r} is no list of pairs such as 1:0,3:1", parameter, context)


_CHANCE_ADVICE = (
    "Are the classes in the order of the model's outputs (--class-names), and the pixels as in training (--scale)?"
)


def data_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What tells which images, and how they are made."""
    options = [
        click.option(
            "--part",
            type=click.Choice(["train", "test"]),
            default="test",
            show_default=True,
            help="Of data that have both.",
        ),
        click.option("--task", help="Of the mammography tasks, such as model_2: fixes classes and their names."),
        click.option(
            "--class-map", type=ClassMap(), help="Data-set class to model output; classes left out are not explained."
        ),
        click.option(
            "--class-names",
            type=List(),
            default=(),
            help="Of the model's outputs, in their order  [default: names of the data, in alphabetical order]",
        ),
        click.option(
            "--scale",
            type=(float, float),
            help="What black and white become  [default: 0 255 for a model with a Rescaling layer, else 0 1]",
        ),
        click.option(
            "--window",
            type=(float, float),
            help="Values of the file that are black and white, for files that use a part of their range.",
        ),
        click.option(
            "--settings",
            type=click.Path(exists=True, dir_okay=False),
            help="settings.json of a round: the images are made as for it.",
        ),
        click.option("--architecture", help="For a file of weights alone: resnet50."),
        click.option(
            "--images-per-class",
            type=click.IntRange(1),
            default=1,
            show_default=True,
            help="How many images of each class.",
        ),
        click.option("--candidates", type=click.IntRange(1), help="Look at so many images at most  [default: all]"),
        click.option("--output", help="Name of the explained output, where the model has several."),
        click.option(
            "--background", default=50, show_default=True, help="Images that GradientShap takes its expectation over."
        ),
        click.option("--seed", default=0, show_default=True, help="Of all that is drawn."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def model_of(text: str, architecture: str | None) -> Any:
    """The model of a file, or of MLflow."""
    from keras_explain.model_files import load_model
    from keras_explain.tracking.runs import is_address, load_logged_model

    return load_logged_model(text) if is_address(text) else load_model(text, architecture=architecture)


def opened(model: str, data: str, how: dict[str, Any]) -> tuple[Any, Any]:
    """The model, and the data as it receives them."""
    from keras_explain.datasets.own import open_data
    from keras_explain.datasets.preprocessing import Preprocessing

    loaded = model_of(model, how["architecture"])
    own = open_data(
        data,
        loaded,
        part=how["part"],
        task=how["task"],
        class_names=how["class_names"],
        class_map=how["class_map"],
        preprocessing=Preprocessing.from_settings(how["settings"]) if how["settings"] else None,
        scale=how["scale"],
        window=how["window"],
    )
    return loaded, own


def selected(model: str, data: str, how: dict[str, Any], like: Any = None) -> tuple[Any, Any, dict[str, Any]]:
    """A scorer of the model, the images to explain, and how they were made; for a second model those of the first."""
    import keras_explain as kx

    loaded, own = opened(model, data, how)
    scorer, names = kx.Scorer(loaded, how["output"]), own.class_names
    chosen = {name: how[name] for name in ("images_per_class", "candidates", "background", "seed")}
    samples = kx.select(scorer, own.data, class_names=names, class_map=own.class_map, **chosen)
    if not len(samples) or samples.accuracy < GUESSING / scorer.head(samples.images).classes:
        words = f"The model gets {samples.accuracy:.1%} of these images right, as guessing would."
        click.echo(f"keras-explain: {words} {_CHANCE_ADVICE}", err=True)
    if like is not None:
        samples = _same_images(scorer, samples, own.data, like)
    settings = {"data": data, "file": model, **chosen}
    if own.preprocessing is not None:
        settings["preprocessing"] = own.preprocessing.as_settings()
    return scorer, samples, settings


def _same_images(scorer: Any, own: Any, data: Any, like: Any) -> Any:
    """The images of another model's samples as this one receives them, with the probability of their class here."""
    import keras
    import numpy as np

    from keras_explain.batches import batches

    wanted, seen = set(like.ids), 0
    found: dict[str, Any] = {}
    for images, _, ids in batches(data, None):
        names = ids or [str(seen + i) for i in range(len(images))]
        found |= {name: image for name, image in zip(names, images, strict=True) if name in wanted}
        seen += len(images)
    if missing := wanted - found.keys():
        raise InputError(f"The second model's data lack the image {min(missing)!r}, which is to be explained.")
    images = np.stack([found[name] for name in like.ids])
    if images.shape != like.images.shape:
        raise InputError(
            f"The models take images of {like.images.shape[1:]} and {images.shape[1:]}; maps of one size compare."
        )
    logits = scorer.logits(images)
    shares = keras.ops.convert_to_numpy(keras.ops.softmax(logits))
    confidence = np.take_along_axis(shares, like.targets[:, :1], axis=1)[:, 0]
    unknown = np.full(len(images), -1)  # whether it is right about them is not what they were chosen for
    return dataclasses.replace(
        like, images=images, labels=unknown, confidence=confidence, background=own.background, accuracy=own.accuracy
    )
