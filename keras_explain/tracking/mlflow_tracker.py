"""Rounds in MLflow, by way of a spool: training never waits for a server."""

from __future__ import annotations

import getpass
import os
import shlex
import sys
import tempfile
import time
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from keras_explain.errors import FIT, ExplanationWarning, InputError, MissingExtra, Unsent, without_secrets
from keras_explain.tracking.protocol import PAGE, ROOT
from keras_explain.tracking.sending import TROUBLE, Sender, check_reachable, kept_page, written
from keras_explain.tracking.spool import FOLDER, Spool

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
        self._said = self._told = False  # of what fails, and of what is replaced
        self._waited = False  # for what the run has
        self._left: tuple[set[int], str] = (set(), "")
        self._first = 0

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
        named = None if own_store else os.environ.get("MLFLOW_RUN_ID")
        run_id = self._given or (active.info.run_id if active else named)
        self._first = int(settings.get("initial_epoch", 0))
        address = written(uri)
        left = Spool.left(self._root(), address, run_id) if self._first else None
        self._spool = left or self._new(address, run_id, own_store)
        if run_id is None and self._first and left is None:
            self._spool.tell(run_id=self._run_id)  # of an earlier fit with this tracker
        self._run_id = self._spool.about["run_id"]
        self._spool.tell(status=None, goes_on=self._first > 0)
        if self._spool.about["interrupted"]:
            words = f"{self._spool.about['interrupted']} It goes on with epoch {self._first + 1}."
            self._spool.put_tags({TROUBLE + FIT: _cut(words)})
        # Not as params: MLflow's image view prints every param over the pictures, and refuses to change one.
        self._spool.put_tags({f"keras_explain.{name}": _cut(str(value)) for name, value in settings.items()})
        self._said = self._told = self._waited = False
        self._left = ({waiting.step for waiting in self._spool.waiting()}, self._spool.page())  # before it is sent
        self._sender = Sender(self._spool, uri, self._first > 0)
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
        return Spool.new(self._root(), about)

    def _root(self) -> Path:
        """The folder of all spools, or one for passing things if there is no writing here."""
        elsewhere = Path(tempfile.gettempdir()) / self.spool.name
        try:
            self.spool.mkdir(parents=True, exist_ok=True)
        except OSError:
            return elsewhere
        return self.spool if os.access(self.spool, os.W_OK) else elsewhere

    def _tell_of_others(self) -> None:
        for other in Spool.whole(self._root()):
            try:
                unsent = other.place != self._spool_of.place and (other.waiting() or other.has_page()) and other.take()
            except InputError:  # gone in the meantime
                continue
            if unsent:
                other.release()
                words = f"of an earlier training {_rounds(other)} not arrived; send what is kept with: "
                warnings.warn(f"keras_explain: {words}{_command_for(other)}", ExplanationWarning, stacklevel=4)

    def _tell_of_replaced(self) -> None:
        """Two trainings in one run."""
        sender = self._sender
        if sender is not None and sender.there and not self._first and not self._told:
            self._told = True
            words = f"{self.where} has rounds of an earlier training: those of the same epochs are replaced, and its "
            words += "metrics show both. Give each training a run of its own, or initial_epoch to one that goes on."
            warnings.warn(f"keras_explain: {words}", ExplanationWarning, stacklevel=3)

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
        self._tell_of_replaced()
        trouble = self._sender.trouble if self._sender else ""
        if trouble and not self._said:
            self._said = True
            place = _shown(self._spool_of.place)
            raise Unsent(f"MLflow does not take the rounds, which are kept in {place} until it does. {trouble}.")
        self._said = bool(trouble)

    def _woken(self) -> None:
        if self._sender is not None:
            self._sender.wake()

    def steps(self) -> Collection[int]:
        """The epochs whose rounds an earlier training has left, as far as the server says so in time."""
        steps, _ = self._left
        return steps | (self._sender.there if self._sender is not None and self._known() else set())

    def _known(self) -> bool:
        """Whether the server has said what the run has, for which a training that goes on waits once."""
        seconds, self._waited = 0.0 if self._waited else _LOOKING, True
        return self._sender is not None and self._sender.looked.wait(seconds) and self._sender.knows

    def report(self) -> str:
        """The page that was on its way, or among the run's artifacts as in a run that is resumed by its id."""
        _, page = self._left
        if page or self._sender is None:
            return page
        if not self._known():  # what the run has is joined when it can be reached
            self._spool_of.tell(join_before=self._first)
        return self._sender.page

    def log_report(self, file: Path) -> None:
        """Log the page among the run's artifacts, where MLflow shows it."""
        self._spool_of.put_page(file)
        self._woken()

    def log_trouble(self, what: str, words: str) -> None:
        """Tag the run; of one that was started here a training that has not ended as it should is a failure."""
        self._spool_of.put_tags({TROUBLE + what: _cut(words)})
        if what == FIT and self._spool_of.about["ours"]:
            self._spool_of.tell(status="FAILED", interrupted=words)
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
        self._tell_of_replaced()
        sender.close()
        why = self._waited_for(sender)
        if why:
            raise Unsent(
                f"{_rounds(spool)} not arrived in MLflow: {why}. Send what is kept with: {_command_for(spool)}"
            )

    def _waited_for(self, sender: Sender) -> str:
        """Wait for it, unless the server has gone, for which MLflow's own client would wait; why it has not arrived."""
        until = time.monotonic() + self.patience
        while sender.is_alive():
            left = until - time.monotonic()
            if left <= 0:
                return f"{without_secrets(sender.uri)} has not answered in patience={self.patience:g} s"
            sender.join(min(left, 1.0))
            try:
                check_reachable(sender.uri)
            except Unsent as error:
                if sender.is_alive():
                    return str(error)
        return sender.trouble

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
    return {0: "The page has", 1: "1 round has"}.get(count, f"{count} rounds have")


def _command_for(spool: Spool) -> str:
    return shlex.join(["keras-explain", "sync", _shown(spool.place)])


def _shown(place: Path) -> str:
    return str(place.relative_to(Path.cwd()) if place.is_relative_to(Path.cwd()) else place)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in some containers
        return "unknown"


def _cut(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()[:_TAG_LENGTH]
