"""The command `keras-explain`."""

from __future__ import annotations

from pathlib import Path

import click


@click.group()
@click.version_option(package_name="keras-explain-callbacks")
def main() -> None:
    """What did the network look at, and can it be believed?"""


@main.command()
@click.option("--size", default=64, show_default=True, help="Side of the phantom images in pixels.")
@click.option("--epochs", default=5, show_default=True, help="Epochs of training.")
@click.option("--images", default=1280, show_default=True, help="Training images.")
@click.option("--tracking-uri", default="sqlite:///mlflow.db", show_default=True, help="Where MLflow keeps the run.")
def demo(size: int, epochs: int, images: int, tracking_uri: str) -> None:
    """Train a small ResNet50 on phantom mammograms and explain it while it learns (a few minutes on two cores)."""
    from keras_explain.demo import run

    run(size=size, epochs=epochs, images=images, tracking_uri=tracking_uri)


@main.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--percentile", default=99.5, show_default=True, help="Of the absolute map, at which colours are cut.")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Folder of the new pictures  [default: FOLDER]"
)
def redraw(folder: Path, percentile: float, out: Path | None) -> None:
    """Draw the pictures of a logged round again from its arrays, for example FOLDER = explanations/epoch_0004."""
    from keras_explain.engine import draw_round
    from keras_explain.errors import ExplainError
    from keras_explain.records import load_round

    try:
        samples, attributions, settings = load_round(folder)
    except ExplainError as error:
        raise click.ClickException(str(error)) from error
    target = out or folder
    target.mkdir(parents=True, exist_ok=True)
    for path in draw_round(target, samples, attributions, settings, percentile):
        click.echo(path)
