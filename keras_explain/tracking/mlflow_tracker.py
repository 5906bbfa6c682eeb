"""Rounds in MLflow, by way of a spool: training never waits for a server."""

from __future__ import annotations

import getpass
import os
import shlex
import sys
import tempfile
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from keras_explain.errors import ExplanationWarning, InputError, MissingExtra, Unsent
from keras_explain.tracking.protocol import FIT, PAGE, ROOT
from keras_explain.tracking.sending import Sender, kept_page, written
from keras_explain.tracking.spool import FOLDER, Spool, command

_TAG_LENGTH = 5000
_LOOKING = 10.0  # seconds that a training which goes on waits for what the run already has


class MlflowTracker:
    """Logs rounds to MLflow: into the active run, or into one that it starts and ends.

    Each picture becomes an image of the run's image view, with the key `explanations/<name>` and the epoch as its step,
    so that the UI gives it a step slider, and a full-size PNG among the artifacts; arrays and settings lie beside it;
    numbers become metrics at the same step. Settings become tags, since the image view covers its pictures with params.

    Rounds are first written into a folder, and sent from there by a thread of their own, so training does not wait for
    the server, whatever that does. What has not arrived stays there until the server is back, or until
    `keras-explain sync explanations-spool`; sent again it replaces itself, and a metric that has a value at a step
    keeps it. A training that goes on (`initial_epoch`, `BackupAndRestore`) after its process died or its `fit` was
    interrupted, in the same folder and by the same command, continues the run that was started here.

    Args:
        run_id: log into this run; None takes the active one when the first round is due, else starts one.
        tracking_uri: of the server or store; None takes MLflow's own setting.
        spool: folder for what has not arrived yet; empty and gone when all has.
        patience: seconds that the end of training waits at most for what has not arrived.

    Raises:
        MissingExtra: mlflow is not installed.
        InputError: negative patience.

    Examples:
        >>> import keras_explain as kx
        >>> tracker = kx.MlflowTracker(tracking_uri="sqlite:///mlflow.db")
    """

    def __init__(
        self,
        run_id: str | None = None,
        tracking_uri: str | None = None,
        spool: str | Path = FOLDER,
        patience: float = 60.0,
    ):
        try:
            import mlflow
        except ImportError as error:
            raise MissingExtra("MlflowTracker needs mlflow: pip install mlflow") from error
        if not patience >= 0:
            raise InputError(f"patience must be seconds, at least 0; got {patience!r}.")
        self._mlflow = mlflow
        self._given, self._uri = run_id, tracking_uri
        self.spool, self.patience = Path(spool), patience
        self._run_id = run_id
        self._spool: Spool | None = None
        self._sender: Sender | None = None
        self._said = False
        self._left: tuple[set[int], str] = (set(), "")

    @property
    def run_id(self) -> str | None:
        """Of the run; None as long as there is none."""
        if self._sender is not None:
            self._run_id = self._sender.run_id or self._run_id
        return self._run_id

    def start(self, settings: Mapping[str, Any]) -> None:
        """Find the run, if there is one, and begin to send; nothing here waits for a server."""
        # The active run is known to this thread only, and belongs to MLflow's own setting, not to another store.
        uri = self._uri or self._mlflow.get_tracking_uri()
        own_store = uri != self._mlflow.get_tracking_uri()
        active = None if own_store else self._mlflow.active_run()
        run_id = self._given or (
            active.info.run_id if active else None if own_store else os.environ.get("MLFLOW_RUN_ID")
        )
        goes_on = int(settings.get("initial_epoch", 0)) > 0
        address = written(uri)
        left = Spool.left(self._root(), address, run_id) if goes_on else None
        self._spool = left or self._new(address, run_id, own_store)
        self._spool.tell(status=None, goes_on=goes_on)
        # Not as params: MLflow's image view prints every param over the pictures, and refuses to change one.
        self._spool.put_tags({f"keras_explain.{name}": _cut(str(value)) for name, value in settings.items()})
        self._said = False
        self._left = ({waiting.step for waiting in self._spool.waiting()}, self._spool.page())  # before it is sent
        self._sender = Sender(self._spool, uri, goes_on)
        self._sender.start()
        self._sender.wake()
        self._tell_of_others()

    def _new(self, address: str, run_id: str | None, own_store: bool) -> Spool:
        """A spool, in a folder for passing things if there is no writing here."""
        # mlflow.set_experiment tells processes that are started later by these variables.
        chosen = {} if own_store else {key: os.environ.get(f"MLFLOW_EXPERIMENT_{key}") for key in ("ID", "NAME")}
        about = {
            "tracking_uri": address,
            "run_id": run_id,
            "ours": run_id is None,
            "experiment_id": chosen.get("ID"),
            "experiment_name": chosen.get("NAME"),
            "source": {"mlflow.source.name": sys.argv[0], "mlflow.source.type": "LOCAL", "mlflow.user": _user()},
        }
        root = self._root()
        for old in Spool.whole(root) if run_id is None else ():  # of a training that was given up
            if old.about["command"] == command() and old.is_empty() and old.take():
                old.remove()
        return Spool.new(root, about)

    def _root(self) -> Path:
        here = self.spool.absolute().parent
        return self.spool if os.access(here, os.W_OK) else Path(tempfile.gettempdir()) / self.spool.name

    def _tell_of_others(self) -> None:
        for other in Spool.whole(self._root()):
            if other.place != self._spool_of.place and not other.is_empty() and other.take():
                other.release()
                words = f"of an earlier training {_rounds(other)} not arrived; send what is kept with: "
                warnings.warn(f"keras_explain: {words}{_command_for(other)}", ExplanationWarning, stacklevel=4)

    @property
    def _spool_of(self) -> Spool:
        if self._spool is None:
            raise InputError("start must be called before rounds are logged.")
        return self._spool

    def log_round(self, step: int, folder: Path, numbers: Mapping[str, float]) -> None:
        """Write one round into the spool, from where it is sent.

        Raises:
            Unsent: once, where sending has begun to fail.
        """
        self._spool_of.put(step, folder, numbers)
        self._woken()
        trouble = self._sender.trouble if self._sender else ""
        if trouble and not self._said:
            self._said = True
            place = self._spool_of.place
            raise Unsent(
                f"MLflow does not take the rounds. They are kept in {place}, and sent when it does. {trouble}."
            )
        self._said = bool(trouble)

    def _woken(self) -> None:
        if self._sender is not None:
            self._sender.wake()

    def steps(self) -> Collection[int]:
        """The epochs whose rounds an earlier training has left, as far as the server says so in time."""
        steps, _ = self._left
        sender = self._sender
        return steps | (sender.there if sender is not None and sender.looked.wait(_LOOKING) else set())

    def report(self) -> str:
        """The page that was on its way, or among the run's artifacts as in a run that is resumed by its id."""
        sender = self._sender
        _, page = self._left
        return page or (sender.page if sender is not None and sender.looked.wait(_LOOKING) else "")

    def log_report(self, page: str) -> None:
        """Log the page among the run's artifacts, where MLflow shows it."""
        self._spool_of.put_page(page)
        self._woken()

    def log_trouble(self, what: str, words: str) -> None:
        """Tag the run; of one that was started here a training that has not ended as it should is a failure."""
        self._spool_of.put_tags({f"keras_explain.trouble.{what}": _cut(words)})
        if what == FIT and self._spool_of.about["ours"]:
            self._spool_of.tell(status="FAILED")
        self._woken()

    def finish(self) -> None:
        """End the run if it was started here, and wait for what has not arrived, `patience` seconds at most.

        Raises:
            Unsent: something has still not arrived; it says where it is, and how it is sent.
        """
        sender, spool = self._sender, self._spool_of
        if sender is None or not sender.is_alive():
            return
        about = spool.about
        if about["ours"] and about["status"] is None:
            spool.tell(status="FINISHED")
        sender.close()
        sender.join(self.patience)
        late, trouble = sender.is_alive(), sender.trouble
        if not late and not trouble:
            return
        reason = trouble or f"it has taken more than {self.patience:g} s"
        raise Unsent(f"{_rounds(spool)} not arrived in MLflow: {reason}. Send what is kept with: {_command_for(spool)}")

    def link(self, model_id: str) -> None:
        """Keep the page of this training with a model that was logged after it, and tell the model the run.

        Args:
            model_id: such as `mlflow.keras.log_model(model, name="resnet").model_id`.

        Raises:
            InputError: nothing has been explained yet.
        """
        client = self._mlflow.MlflowClient(self._uri or self._mlflow.get_tracking_uri())
        page = kept_page(client, self.run_id) if self.run_id is not None else ""
        if not page:
            raise InputError("There is no report to link: call link after a fit in which a round was explained.")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / Path(PAGE).name
            file.write_text(page, "utf-8")
            client.log_model_artifact(model_id, str(file), ROOT)
        client.set_logged_model_tags(model_id, {"keras_explain.report": f"runs:/{self.run_id}/{PAGE}"})

    @property
    def where(self) -> str:
        """Where to look, in words."""
        return f"MLflow run {self.run_id}"


def _rounds(spool: Spool) -> str:
    count = len(spool.waiting())
    return f"{count} rounds have" if count != 1 else "1 round has"


def _command_for(spool: Spool) -> str:
    return shlex.join(["keras-explain", "sync", str(spool.place)])


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in some containers
        return "unknown"


def _cut(text: str) -> str:
    return text[:_TAG_LENGTH]
