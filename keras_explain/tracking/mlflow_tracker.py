"""Where rounds of explanation go: MLflow, a folder, or the user's own tracker. The one place that imports mlflow.

A round is a folder of pictures (`<name>.png`), arrays (`.npz`) and `settings.json`, with numbers beside it. Both
trackers keep the same tree, `explanations/epoch_0004/...`.
"""

from __future__ import annotations

import csv
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from keras_explain.errors import InputError, MissingExtra

ROOT = "explanations"
PAGE = f"{ROOT}/report.html"
_TAG_LENGTH = 5000


def round_name(step: int) -> str:
    """Folder of the round of one epoch."""
    return f"epoch_{step:04d}"


@runtime_checkable
class Tracker(Protocol):
    """What the callback needs of a tracker; any object with these three methods will do."""

    def start(self, settings: Mapping[str, Any]) -> None:
        """Called on the training thread before the first round; the settings describe all rounds."""

    def log_round(self, step: int, folder: Path, numbers: Mapping[str, float]) -> None:
        """Keep the files of `folder`, pictures at its top included, and the numbers, at one step. On another thread."""

    def finish(self) -> None:
        """Called after the last round."""


@runtime_checkable
class KeepsReport(Protocol):
    """What a tracker has beside, if it keeps the page that grows with the rounds; those without get none."""

    def report(self) -> str:
        """The page that an earlier training has left, "" if there is none."""

    def log_report(self, page: str) -> None:
        """Keep a page, in the place of the one before. On the thread of `log_round`, after it."""


class MlflowTracker:
    """Logs rounds to MLflow: into the active run, or into one that it starts and ends.

    Each picture becomes an image of the run's image view, `log_image(key="explanations/<name>", step=epoch)`, so that
    the UI gives it a step slider, and a full-size PNG among the artifacts; arrays and settings lie beside it; numbers
    become metrics at the same step. Settings become tags, since the image view covers its pictures with params.

    Args:
        run_id: log into this run; None takes the active one when the first round is due, else starts one.
        tracking_uri: of the server or store; None takes MLflow's own setting.

    Raises:
        MissingExtra: mlflow is not installed.

    Examples:
        >>> import keras_explain as kx
        >>> tracker = kx.MlflowTracker(tracking_uri="sqlite:///mlflow.db")
    """

    def __init__(self, run_id: str | None = None, tracking_uri: str | None = None):
        try:
            import mlflow
        except ImportError as error:
            raise MissingExtra("MlflowTracker needs mlflow: pip install mlflow") from error
        self._mlflow = mlflow
        self._given = run_id
        self._uri = tracking_uri
        self._ours = False
        self._client: Any = None
        self.run_id = run_id

    def start(self, settings: Mapping[str, Any]) -> None:
        """Find or start the run, and write the settings into its tags."""
        # The active run is known to this thread only, and rounds are logged from another: keep its id.
        uri = self._uri or self._mlflow.get_tracking_uri()
        self._client = self._mlflow.MlflowClient(uri)
        # An active run belongs to MLflow's own setting, not to another store.
        active = self._mlflow.active_run() if self._uri in (None, self._mlflow.get_tracking_uri()) else None
        self._ours = False
        if self._given is not None:
            self.run_id = self._given
        elif active is not None:
            self.run_id = active.info.run_id
        else:
            self.run_id = self._new_run()
            self._ours = True
        # Not as params: MLflow's image view prints every param over the pictures, and refuses to change one.
        tags = {f"keras_explain.{name}": str(value)[:_TAG_LENGTH] for name, value in settings.items()}
        self._client.log_batch(self.run_id, tags=[self._mlflow.entities.RunTag(*tag) for tag in tags.items()])

    def _new_run(self) -> str:
        """A run that is not left active: of the usual experiment and tags, or in the store that was given."""
        if self._uri is not None:
            experiment = self._client.get_experiment_by_name("Default")
            tags = {"mlflow.source.name": sys.argv[0]}
            return str(self._client.create_run(experiment.experiment_id if experiment else "0", tags=tags).info.run_id)
        with self._mlflow.start_run() as run:
            run_id = str(run.info.run_id)
        self._client.update_run(run_id, status="RUNNING")
        return run_id

    def log_round(self, step: int, folder: Path, numbers: Mapping[str, float]) -> None:
        """Log one round into the run."""
        from PIL import Image

        self._client.log_artifacts(self.run_id, str(folder), f"{ROOT}/{round_name(step)}")
        for path in sorted(folder.glob("*.png")):
            with Image.open(path) as picture:
                # The UI draws one card a key, so keys stay few and the epoch goes into the step.
                self._client.log_image(
                    self.run_id, picture.convert("RGB"), key=f"{ROOT}/{path.stem}", step=step, synchronous=True
                )
        now = int(time.time() * 1000)
        metrics = [self._mlflow.entities.Metric(name, float(value), now, step) for name, value in numbers.items()]
        self._client.log_batch(self.run_id, metrics=metrics)

    def report(self) -> str:
        """The page among the run's artifacts, as in a run that is resumed by its id."""
        # A list of files is asked for first, since MLflow tries for minutes to download what is not there.
        if PAGE not in (file.path for file in self._client.list_artifacts(self.run_id, ROOT)):
            return ""
        with tempfile.TemporaryDirectory() as folder:
            return Path(self._client.download_artifacts(self.run_id, PAGE, folder)).read_text("utf-8")

    def log_report(self, page: str) -> None:
        """Log the page among the run's artifacts, where MLflow shows it."""
        self._client.log_text(self.run_id, page, PAGE)

    def finish(self) -> None:
        """End the run if it was started here."""
        if self._ours:
            self._client.set_terminated(self.run_id)
            self._ours = False

    def link(self, model_id: str) -> None:
        """Keep the page of this training with a model that was logged after it, and tell the model the run.

        Args:
            model_id: such as `mlflow.keras.log_model(model, name="resnet").model_id`.

        Raises:
            InputError: nothing has been explained yet.
        """
        if self._client is None and self.run_id is not None:
            self._client = self._mlflow.MlflowClient(self._uri or self._mlflow.get_tracking_uri())
        page = self.report() if self._client is not None else ""
        if not page:
            raise InputError("There is no report to link: call link after a fit in which a round was explained.")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / Path(PAGE).name
            file.write_text(page, "utf-8")
            self._client.log_model_artifact(model_id, str(file), ROOT)
        self._client.set_logged_model_tags(model_id, {"keras_explain.report": f"runs:/{self.run_id}/{PAGE}"})

    @property
    def where(self) -> str:
        """Where to look, in words."""
        return f"MLflow run {self.run_id}"


class DirectoryTracker:
    """Keeps rounds in a folder, in the same tree as `MlflowTracker`, with numbers in `metrics.csv`.

    A training that begins with its first epoch leaves an earlier one alone, whose folder becomes `explanations-1`; one
    that goes on (`initial_epoch`) joins it, and what it does again replaces what was there.

    Args:
        folder: created if needed; rounds go to `folder/explanations/epoch_0004`.

    Examples:
        >>> import keras_explain as kx
        >>> tracker = kx.DirectoryTracker("runs/one")
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._settings: dict[str, Any] | None = None  # until the first round is there

    def start(self, settings: Mapping[str, Any]) -> None:
        """Make the folder; the settings are written with the first round."""
        self._settings = dict(settings)
        (self.folder / ROOT).mkdir(parents=True, exist_ok=True)

    def _begin(self, step: int, settings: Mapping[str, Any]) -> None:
        """Set an earlier training aside, or take out of its numbers those of the steps that come again."""
        root = self.folder / ROOT
        numbers = root / "metrics.csv"
        if step == 0 and any(root.glob("epoch_*")):
            free = (self.folder / f"{ROOT}-{k}" for k in range(1, 10**6))
            root.rename(next(place for place in free if not place.exists()))
            root.mkdir()
        elif numbers.exists():
            with numbers.open(newline="", encoding="utf-8") as file:
                head, *rows = csv.reader(file)
            partial = numbers.with_suffix(".partial")
            with partial.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([head, *(row for row in rows if int(row[0]) < step)])
            partial.replace(numbers)
        (root / "run.json").write_text(json.dumps(dict(settings), indent=1, default=str), encoding="utf-8")

    def log_round(self, step: int, folder: Path, numbers: Mapping[str, float]) -> None:
        """Copy one round, and append its numbers."""
        if self._settings is not None:
            self._begin(step, self._settings)
            self._settings = None
        root = self.folder / ROOT
        partial = root / f".{round_name(step)}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(folder, partial)
        shutil.rmtree(root / round_name(step), ignore_errors=True)
        partial.rename(root / round_name(step))
        path = root / "metrics.csv"
        new = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(["step", "name", "value"])
            writer.writerows([step, name, repr(float(value))] for name, value in numbers.items())

    def report(self) -> str:
        """The page in the folder."""
        file = self.folder / PAGE
        return file.read_text("utf-8") if file.is_file() else ""

    def log_report(self, page: str) -> None:
        """Write the page, in the place of an earlier one when it is whole."""
        partial = self.folder / f"{PAGE}.partial"
        partial.write_text(page, "utf-8")
        partial.replace(self.folder / PAGE)

    def finish(self) -> None:
        """Nothing is left open."""

    @property
    def where(self) -> str:
        """Where to look, in words."""
        return str(self.folder / ROOT)
