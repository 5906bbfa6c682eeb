"""The command `keras-explain`."""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from keras_explain.cli_data import List, data_options, model_of, opened, selected
from keras_explain.errors import ExplainError, ExplanationWarning
from keras_explain.explainers import METHODS, named
from keras_explain.metrics import METRICS


class _Group(click.Group):
    """Says errors and warnings in a line, without the places in the source that they come from."""

    def invoke(self, context: click.Context) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("always", ExplanationWarning)
            warnings.showwarning = lambda message, *_, **__: click.echo(f"keras-explain: {message}", err=True)
            try:
                return super().invoke(context)
            except ExplainError as error:
                raise click.ClickException(str(error)) from error


class _Names(List):
    """Some of the names that are known."""

    def __init__(self, known: Collection[str]):
        self.known = known

    def convert(self, value: Any, parameter: Any, context: Any) -> tuple[str, ...]:
        names = super().convert(value, parameter, context)
        for name in names:
            if name not in self.known:
                self.fail(f"there is no {name!r}; known are {', '.join(self.known)}", parameter, context)
        return names


_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="keras-explain-callbacks")
def main() -> None:
    """What did the network look at, and can it be believed?

    MODEL is a file of Keras 3 or Keras 2, or an address of MLflow: models:/name/version, models:/id, runs:/id/name.
    DATA is a folder with a folder of pictures for each class, a CSV with filename and label, an npz with images and
    labels, a TFRecord file or a folder of mammograms. MLflow is the one of MLFLOW_TRACKING_URI.

    \b
    keras-explain explain model.keras pictures/ --out explained
    keras-explain report runs/one --out report.html
    keras-explain compare old.keras new.keras --data pictures/

    Completion for bash: eval "$(_KERAS_EXPLAIN_COMPLETE=bash_source keras-explain)", likewise zsh_source, fish_source.
    """
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # it would stand before JSON


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
@click.argument("model")
@click.argument("data")
@data_options
@_JSON
def select(model: str, data: str, as_json: bool, **how: Any) -> None:
    """Show which images would be explained: of each class those that MODEL gets right with most confidence.

    \b
    keras-explain select model.keras pictures/ --images-per-class 3
    keras-explain select models:/resnet/2 table.csv --json
    """
    _, samples, _ = selected(model, data, how)
    found = [
        {
            "id": name,
            "class": samples.class_name(int(samples.targets[i, 0])),
            "label": int(samples.labels[i]),
            "confidence": float(samples.confidence[i]),
        }
        for i, name in enumerate(samples.ids)
    ]
    missing = [samples.class_name(target) for _, target in samples.missing]
    if as_json:
        _print_json({"accuracy": samples.accuracy, "images": found, "classes_without_image": missing})
        return
    click.echo(f"accuracy {samples.accuracy:.3f} on the images looked at")
    for row in found:
        click.echo(f"{row['class']:<28} {row['confidence']:.4f}  {row['id']}")
    for name in missing:
        click.echo(f"{name:<28} no image is predicted correctly")


@main.command()
@click.argument("model")
@click.argument("data")
@data_options
@click.option(
    "--methods",
    type=_Names(METHODS),
    default="vanilla,guided,rectified,integrated_gradients,lime,gradient_shap",
    show_default=True,
    help="By name.",
)
@click.option(
    "--metrics",
    type=_Names(METRICS),
    help="By name  [default: those that evaluate no model, and randomization of cheap methods]",
)
@click.option(
    "--why-not", type=_Names(METHODS), default=(), help="Methods that explain every other class of the images too."
)
@click.option("--out", type=_FOLDER, default="explained", show_default=True, help="Folder of round/ and report.html.")
@click.option("--title", help="Of the page  [default: the model]")
@click.option("--log", is_flag=True, help="Keep the result with the MODEL of MLflow, too.")
@click.option("--engine", type=click.Choice(["local", "ray"]), help="Explain every image, in shards, here or on Ray.")
@click.option("--shard-size", type=click.IntRange(1), help="With --engine: images in a shard  [default: 256]")
@click.option("--workers", type=click.IntRange(1), help="With --engine ray: processes, each with one core.")
@click.option("--gpus", type=click.FloatRange(0), help="With --engine ray: share of a GPU for each worker.")
@click.option("--address", help="With --engine ray: of the cluster  [default: one is started here]")
@_JSON
def explain(
    model: str,
    data: str,
    methods: tuple[str, ...],
    metrics: tuple[str, ...] | None,
    why_not: tuple[str, ...],
    out: Path,
    title: str | None,
    log: bool,
    engine: str | None,
    as_json: bool,
    **how: Any,
) -> None:
    """Explain the surest images of each class by several methods, measure the maps, and write a page to read.

    With --engine every image is explained instead, for the class that is predicted, as many as there are; what is done
    is not done again when the command is given anew.

    \b
    keras-explain explain model.keras pictures/ --out explained
    keras-explain explain model.keras data.npz --methods vanilla,integrated_gradients --why-not integrated_gradients
    keras-explain explain models:/resnet/2 pictures/ --log
    keras-explain explain model.keras pictures/ --engine ray --workers 8 --gpus 0.25 --address ray://head:10001
    """
    whole = {name: how.pop(name) for name in ("shard_size", "workers", "gpus", "address")}
    given = {name: value for name, value in whole.items() if value is not None}
    if engine is not None:
        if why_not or title or log:
            raise click.UsageError("--why-not, --title and --log are for the page, which --engine does not write.")
        _explain_all(model, data, methods, out, metrics, engine, given, as_json, how)
        return
    if given:
        raise click.UsageError(f"--{next(iter(given)).replace('_', '-')} needs --engine.")
    from keras_explain.post_training import explain_selected
    from keras_explain.tracking.runs import is_address, keep_with_model

    if log and not is_address(model):
        raise click.UsageError("--log keeps the result with a model of MLflow; MODEL is a file.")
    scorer, samples, settings = selected(model, data, how)
    with _bar(len(methods)) as bar:
        found = explain_selected(
            scorer,
            samples,
            methods,
            out,
            metrics=metrics,
            why_not=why_not,
            seed=how["seed"],
            title=title or Path(model).name,
            settings=settings,
            advance=bar.advance,
        )
    kept = keep_with_model(model, out / "round", out / "report.html") if log else None
    if as_json:
        _print_json(
            {
                "report": str(out / "report.html"),
                "model_id": kept,
                "failures": found.failures,
                "means": _means(found.methods, found.attributions),
            }
        )
    else:
        _print_means(found.methods, found.attributions)
        click.echo(f"\nreport {out / 'report.html'}" + (f", and with the model {kept}" if kept else ""))
    if not found.methods:
        raise click.ClickException("No method could explain this model: " + "; ".join(found.failures.values()))


@main.command()
@click.argument("model")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--metrics",
    type=_Names(METRICS),
    default="faithfulness",
    show_default=True,
    help="By name: completeness, localization, border, agreement, faithfulness, randomization, sensitivity, stability.",
)
@click.option("--architecture", help="For a file of weights alone: resnet50.")
@_JSON
def evaluate(model: str, folder: Path, metrics: tuple[str, ...], architecture: str | None, as_json: bool) -> None:
    """Measure the maps of a round by further metrics, and store the numbers with them.

    FOLDER is a round, or that of a training, whose last one is taken; MODEL must be the one that was explained. The
    page beside a round that `explain` has made is written again.

    \b
    keras-explain evaluate model.keras explained/round --metrics faithfulness,randomization
    """
    import keras_explain as kx
    from keras_explain.engine import finite, identity, number_name, own_maps, with_others
    from keras_explain.post_training import explainer_of
    from keras_explain.records import save_round
    from keras_explain.report import rounds_in, write_report

    loaded, place = model_of(model, architecture), rounds_in(folder)[-1]
    samples, attributions, settings = kx.load_round(place)
    known = settings.get("model", {}).get("weights")
    if known not in (None, identity(loaded)["weights"]):
        raise click.ClickException(f"{model} has other weights than the model that was explained in {place}.")
    scorer, measured = kx.Scorer(loaded), []
    numbers: dict[str, float] = {}
    with _bar(len(attributions)) as bar:
        for i, attribution in enumerate(attributions):
            bar.advance(attribution.method)
            own = own_maps(samples, attribution)
            others = [own_maps(samples, other) for k, other in enumerate(attributions) if k != i]
            found = kx.metrics.measure(
                scorer, samples, own, metrics, explainer=explainer_of(attribution), others=others
            )
            measured.append(with_others(samples, found, attribution))
            numbers |= {number_name(attribution.method, name): mean for name, mean in kx.metrics.means(found).items()}
    settings["numbers"] = {**settings.get("numbers", {}), **finite(numbers)}
    save_round(place, samples, measured, settings)
    page = place.parent / "report.html"
    if place.name == "round" and page.is_file():  # that of `explain`
        write_report(place, page, settings.get("title", page.stem))
    names = [attribution.method for attribution in measured]
    if as_json:
        _print_json(_means(names, measured))
    else:
        _print_means(names, measured)


@main.command()
@click.argument("source")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), default="report.html", show_default=True, help="The page."
)
@click.option("--title", default="Explanations", show_default=True, help="Of the page.")
def report(source: str, out: Path, title: str) -> None:
    """Write the page of a round, of a training or of an MLflow run: one HTML file, readable without a network.

    SOURCE is a folder, or a run by its id.

    \b
    keras-explain report runs/one --out report.html
    keras-explain report 3f2a9c... --title "ResNet50, fold 2"
    """
    from keras_explain.report import write_report
    from keras_explain.tracking.runs import rounds_of

    with tempfile.TemporaryDirectory() as folder:
        click.echo(write_report(rounds_of(source, Path(folder)), out, title))


@main.command()
@click.argument("first")
@click.argument("second")
@click.option("--data", help="FIRST and SECOND are models: explain these images by both.")
@click.option(
    "--methods",
    type=_Names(METHODS),
    default="vanilla,integrated_gradients",
    show_default=True,
    help="By name, with --data.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default="comparison.html",
    show_default=True,
    help="The page.",
)
@data_options
@_JSON
def compare(
    first: str, second: str, data: str | None, methods: tuple[str, ...], out: Path, as_json: bool, **how: Any
) -> None:
    """Lay the maps of two runs or of two models side by side, on the images that both explain.

    FIRST and SECOND are folders or MLflow runs, of which the last rounds are taken; with --data they are models, and
    the surest images of the first are explained by both.

    \b
    keras-explain compare runs/one runs/two
    keras-explain compare old.keras new.keras --data pictures/
    """
    import keras_explain as kx
    from keras_explain.comparison import compare as write
    from keras_explain.report import rounds_in
    from keras_explain.tracking.runs import rounds_of

    if data is None:
        context = click.get_current_context()
        shared = {"first", "second", "out", "as_json", "data"}
        given = [name for name in context.params if context.get_parameter_source(name) == ParameterSource.COMMANDLINE]
        if extra := [name for name in given if name not in shared]:
            raise click.UsageError(f"--{extra[0].replace('_', '-')} is for two models; give their images in --data.")
        with tempfile.TemporaryDirectory() as folder:
            places = [Path(folder) / side for side in ("first", "second")]
            for place in places:
                place.mkdir()
            rounds = [
                rounds_in(rounds_of(name, place, last=True))[-1]
                for name, place in zip((first, second), places, strict=True)
            ]
            agreement = write(kx.load_round(rounds[0]), kx.load_round(rounds[1]), out, (first, second))
    else:
        one, samples, settings = selected(first, data, how)
        if not len(samples):
            raise click.ClickException("There is no image to explain: the first model predicts none correctly.")
        other, same, others_settings = selected(second, data, how, like=samples)
        explained = [
            (shown, [kx.explain(scorer, shown, method) for _, method in named(methods, how["seed"])], about)
            for scorer, shown, about in ((one, samples, settings), (other, same, others_settings))
        ]
        agreement = write(explained[0], explained[1], out, (first, second))
    if as_json:
        _print_json({"page": str(out), "rank_agreement": agreement})
        return
    for title, images in agreement.items():
        finite = [rho for rho in images.values() if math.isfinite(rho)]
        mean = f"{sum(finite) / len(finite):.3f}" if finite else "-"
        click.echo(f"{title:<34} mean rank agreement {mean} over {len(images)} images")
    click.echo(f"\npage {out}")


@main.command()
@click.argument("folder", type=_FOLDER, default="explanations-spool")
@click.option("--tracking-uri", help="Where MLflow keeps the run  [default: as in the training]")
@click.option("--run-id", help="Send into this run, where the first one is gone for good.")
@_JSON
def sync(folder: Path, tracking_uri: str | None, run_id: str | None, as_json: bool) -> None:
    """Send to MLflow what a training could not: its server was down, or the training was killed.

    FOLDER is named in the warning of the training: of one training, or of all  [default: explanations-spool]. What has
    arrived is removed from it. It can be done again at any time.

    \b
    keras-explain sync explanations-spool
    """
    from keras_explain.tracking.sending import reason
    from keras_explain.tracking.sending import sync as send
    from keras_explain.tracking.spool import Spool

    spools, sent, failed = Spool.all(folder), {}, {}
    if run_id is not None and spools and len(spools) != 1:
        raise click.UsageError(f"--run-id is for one training; {folder} holds {len(spools)}.")
    for spool in spools:
        try:
            sent[str(spool.place)] = dict(zip(("rounds", "run_id"), send(spool, tracking_uri, run_id), strict=True))
        except Exception as error:  # the others may go
            failed[str(spool.place)] = reason(error)
    if as_json:
        _print_json({"sent": sent, "unsent": failed})
    else:
        for name, found in sent.items():
            click.echo(f"{name}: {found['rounds']} rounds sent, run {found['run_id']}")
        if not spools:
            click.echo(f"{folder} holds nothing to send.")
    if failed:
        raise click.ClickException("; ".join(f"{name} is not sent: {why}" for name, why in failed.items()))


@main.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--percentile", default=99.5, show_default=True, help="Of the absolute map, at which colours are cut.")
@click.option("--out", type=_FOLDER, help="Folder of the new pictures  [default: FOLDER]")
def redraw(folder: Path, percentile: float, out: Path | None) -> None:
    """Draw the pictures of a logged round, or of all rounds of a training, again from their arrays.

    \b
    keras-explain redraw explanations/epoch_0004 --percentile 99.9 --out again
    """
    from keras_explain.engine import draw_round
    from keras_explain.records import load_round
    from keras_explain.report import rounds_in

    places = rounds_in(folder)
    for place in places:
        target = place if out is None else out / place.name if len(places) > 1 else out
        target.mkdir(parents=True, exist_ok=True)
        for path in draw_round(target, *load_round(place), percentile):
            click.echo(path)


def _explain_all(
    model: str,
    data: str,
    methods: Sequence[str],
    out: Path,
    metrics: Sequence[str] | None,
    engine: str,
    given: dict[str, Any],
    as_json: bool,
    how: dict[str, Any],
) -> None:
    import keras_explain as kx

    loaded, own = opened(model, data, how)
    shared = {"background": how["background"], "seed": how["seed"], "output": how["output"]}
    found = kx.explain_dataset(loaded, own.data, methods, out, engine=engine, metrics=metrics or (), **shared, **given)
    index = found.index
    if as_json:
        images = int(index.position.nunique())
        _print_json({"out": str(out), "images": images, "maps": len(index), "shards": len(found.shards)})
        return
    numbers = [
        name for name in index.select_dtypes("number") if name not in ("position", "label", "shard", "row", "target")
    ]
    click.echo(index.groupby("method", sort=False)[numbers].mean().dropna(axis=1, how="all").T.to_string())
    click.echo(f"\n{len(index)} maps of {index.position.nunique()} images in {out}, {len(found.shards)} shards")


def _means(names: Any, attributions: Any) -> dict[str, dict[str, float | None]]:
    from keras_explain.metrics import means

    return {
        name: {measure: mean if math.isfinite(mean) else None for measure, mean in means(attribution).items()}
        for name, attribution in zip(names, attributions, strict=True)
    }


def _print_means(names: Any, attributions: Any) -> None:
    for name, measures in _means(names, attributions).items():
        told = ", ".join(
            f"{measure.replace('_', ' ')} {mean:.3g}" for measure, mean in measures.items() if mean is not None
        )
        click.echo(f"{name}: {told}")


def _print_json(found: Any) -> None:
    click.echo(json.dumps(found, indent=1))


def _bar(total: int) -> Any:
    """A line with the time that is left, on a terminal only."""
    from tqdm import tqdm

    class Bar(tqdm):
        monitor_interval = 0  # no watching thread

        def advance(self, name: str) -> None:
            self.set_description(name)
            self.update()

    return Bar(total=total, leave=False, disable=None, unit="method", file=sys.stderr)
