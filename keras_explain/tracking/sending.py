"""Spool -> MLflow: every round exactly once, however often it is tried."""

from __future__ import annotations

import re
import socket
import tempfile
import threading
import urllib.request
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from keras_explain.errors import FIT, InputError, Unsent, without_secrets
from keras_explain.tracking.protocol import PAGE, ROOT, round_name, step_of
from keras_explain.tracking.spool import Spool, Waiting

_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 60.0  # seconds between two tries
TROUBLE = "keras_explain.trouble."  # tags
_CONNECTING = 5.0  # seconds, after which a server is taken to be down
_THUMBNAIL = 256  # pixels, as MLflow's own
_LONGEST_REASON = 300
_TRAINING = "keras_explain.training"  # by which a run is known whose making was not answered


class Sender(threading.Thread):
    """Sends what is in a spool as soon as it is there, and again when the server is back.

    It is a thread that a process does not wait for when it ends, since a server may hang for as long as it likes.

    Args:
        spool: held by this process. When all has arrived after `close`, it is removed.
        uri: of the tracking server or store.
        goes_on: whether the run has rounds of an earlier training, which are looked up first.
    """

    def __init__(self, spool: Spool, uri: str, goes_on: bool):
        super().__init__(name="keras-explain-sender", daemon=True)
        self.spool, self.uri = spool, uri
        self.trouble = ""  # why the last try failed
        self.there: set[int] = set()  # epochs, as the run had them at the beginning
        self.page = ""  # likewise
        self.looked, self.knows = threading.Event(), False  # whether it was tried, and whether it was answered
        self.run_id: str | None = spool.about["run_id"]
        self._goes_on = goes_on
        self._wake = threading.Event()
        self._closing = False

    def wake(self) -> None:
        """There is something to send."""
        self._wake.set()

    def close(self) -> None:
        """Nothing more will come: try once more, then end."""
        self._closing = True
        self._wake.set()

    def run(self) -> None:
        """Send until closed."""
        pause = None
        while True:
            self._wake.wait(pause)
            self._wake.clear()
            closing = self._closing
            try:
                self._try()
            except Exception as error:  # whatever it is, the spool keeps what has not arrived
                self.trouble = reason(_gone(self.uri) or error)
                self.looked.set()  # in vain: nobody shall wait for it
                pause = min(_LONGEST_PAUSE, 2 * pause if pause else _FIRST_PAUSE)
            else:
                self.trouble, pause = "", None
            if closing:
                break
        try:
            self._leave()
        except Exception as error:
            self.trouble = reason(error)

    def _try(self) -> None:
        import mlflow

        check_reachable(self.uri)
        client = mlflow.MlflowClient(self.uri)
        known = self.spool.about["run_id"]
        if known and not self.knows:
            self.there = kept_steps(client, known)
            self.page = kept_page(client, known) if self._goes_on else ""
        self.knows = True
        self.looked.set()
        if known or self.spool.waiting() or self.spool.has_page():  # no run is made for nothing
            self.run_id = run_of(self.spool, client)
            send(self.spool, client)

    def _leave(self) -> None:
        if self.trouble or goes_on_later(self.spool):
            self.spool.release()
        else:
            self.spool.remove()


def goes_on_later(spool: Spool) -> bool:
    """Whether a spool says of a run, which only it knows, that its training has not ended as it should."""
    about = spool.about
    return bool(about["ours"]) and about["status"] != "FINISHED"


def check_reachable(uri: str) -> None:
    """Raise at once where a server is down, since MLflow's own client tries for minutes.

    Raises:
        Unsent: nobody listens at the address.
    """
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or parts.scheme in urllib.request.getproxies():
        return
    try:
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        socket.create_connection((parts.hostname or "", port), timeout=_CONNECTING).close()
    except OSError as error:
        raise Unsent(f"{without_secrets(uri)} cannot be reached: {error}") from None


def send(spool: Spool, client: Any) -> str:
    """Send all that waits, oldest first; what has arrived is taken out of the spool.

    Args:
        spool: held by this process.
        client: of MLflow.

    Returns:
        The id of the run.

    Raises:
        Unsent: the run has been deleted.
        Exception: whatever MLflow raises; what has not arrived is still in the spool.
    """
    run_id = run_of(spool, client)
    run = client.get_run(run_id)
    info = run.info
    if info.lifecycle_stage != "active":
        raise Unsent(f"The run {run_id} has been deleted; bring it back with: mlflow runs restore --run-id {run_id}")
    about = spool.about
    if about["tags"]:
        _tag(client, run_id, {k: v for k, v in about["tags"].items() if not _is_known_trouble(k, run.data.tags)})
        spool.remove_tags(about["tags"])
    refused: Exception | None = None
    for waiting in spool.waiting():
        try:
            _send_round(client, run_id, info.start_time, waiting, about["goes_on"])
        except Exception as error:
            if getattr(error, "error_code", "") != "INVALID_PARAMETER_VALUE":
                raise
            refused = error  # one round that MLflow never takes shall not hold up the others
        else:
            waiting.remove()
    page = spool.page_to_send()
    if page is not None:
        if about["join_before"]:  # it was made when nobody could say what the run has
            from keras_explain.report import joined

            text = joined(page.read_text("utf-8"), kept_page(client, run_id), about["join_before"])
            client.log_text(run_id, text, PAGE)
        else:
            client.log_artifact(run_id, str(page), ROOT)
        page.unlink()
    if about["status"] not in (None, info.status):
        client.set_terminated(run_id, about["status"])
    if refused is not None:
        raise refused
    return run_id


def sync(spool: Spool, uri: str | None = None, run_id: str | None = None) -> tuple[int, str]:
    """Send what a training has left; doing it again, or while it was half done, changes nothing.

    Args:
        spool: of a training that no process goes on with.
        uri: of the server; None is the one that was written down, with the passwords of MLflow's own setting.
        run_id: of another run, where the first one is gone for good.

    Returns:
        How many rounds were sent, and the run.

    Raises:
        Unsent: a process holds the spool, the server is down or the run deleted.
        InputError: a damaged spool, or an address whose password is not known.
        Exception: whatever MLflow raises; what has not arrived is still in the spool.
    """
    import mlflow

    if not spool.take():
        raise Unsent("a training, or another sync, is still sending it")
    try:
        uri = uri or _with_secrets(spool.about["tracking_uri"], mlflow.get_tracking_uri())
        count = len(spool.waiting())
        check_reachable(uri)
        client = mlflow.MlflowClient(uri)
        if run_id is not None:
            client.get_run(run_id)  # whether there is one
            spool.tell(run_id=run_id, ours=False, status=None, goes_on=True)
        run = send(spool, client)
        if not goes_on_later(spool):
            spool.remove()
    finally:
        spool.release()
    return count, run


def _with_secrets(address: str, current: str) -> str:
    """The address that is written down, or MLflow's own setting where that is the same but for passwords."""
    if "***" not in address:
        return address
    if written(current) != address:
        raise InputError(
            f"The passwords of {address} are not written down: give the whole address in --tracking-uri or "
            "MLFLOW_TRACKING_URI."
        )
    return current


def written(uri: str) -> str:
    """An address as it is written down: without passwords, and that of a local store the same from every folder."""
    found = re.fullmatch(r"sqlite:///([^/].*)", uri)
    return without_secrets(f"sqlite:///{Path(found[1]).absolute()}" if found else uri)


def run_of(spool: Spool, client: Any) -> str:
    """The run of a spool, which is made if there is none; if that was tried before, it may have come about."""
    about = spool.about
    if about["run_id"] is None:
        experiment = _experiment(about, client)
        found = []
        if about["asked"]:
            found = client.search_runs([experiment], f"tags.`{_TRAINING}` = '{spool.place.name}'")
        else:
            spool.tell(asked=True)
        run = (
            found[0] if found else client.create_run(experiment, tags={**about["source"], _TRAINING: spool.place.name})
        )
        spool.tell(run_id=str(run.info.run_id))
    return str(spool.about["run_id"])


def _experiment(about: dict[str, Any], client: Any) -> str:
    if about["experiment_id"]:
        return str(about["experiment_id"])
    found = client.get_experiment_by_name(about["experiment_name"] or "Default")
    if found is None and about["experiment_name"]:
        return str(client.create_experiment(about["experiment_name"]))
    return str(found.experiment_id) if found else "0"


def kept_steps(client: Any, run_id: str) -> set[int]:
    """The epochs of which a run has artifacts."""
    found = (step_of(Path(file.path).name) for file in client.list_artifacts(run_id, ROOT))
    return {step for step in found if step is not None}


def kept_page(client: Any, run_id: str) -> str:
    """The page among a run's artifacts, "" if there is none."""
    # A list of files is asked for first, since MLflow tries for minutes to download what is not there.
    if PAGE not in (file.path for file in client.list_artifacts(run_id, ROOT)):
        return ""
    with tempfile.TemporaryDirectory() as folder:
        return Path(client.download_artifacts(run_id, PAGE, folder)).read_text("utf-8")


def _send_round(client: Any, run_id: str, start: int, waiting: Waiting, goes_on: bool) -> None:
    """Files first, which replace each other; numbers last, since MLflow never takes one back."""
    from mlflow.entities import Metric

    tried = waiting.tried
    waiting.begin()
    client.log_artifacts(run_id, str(waiting.files), f"{ROOT}/{round_name(waiting.step)}")
    _send_images(client, run_id, start, waiting)
    numbers = waiting.numbers
    if goes_on or tried:
        numbers = {name: value for name, value in numbers.items() if not _has(client, run_id, name, waiting, goes_on)}
    metrics = [Metric(name, value, waiting.time, waiting.step) for name, value in numbers.items()]
    if metrics:
        client.log_batch(run_id, metrics=metrics)


def _has(client: Any, run_id: str, name: str, waiting: Waiting, goes_on: bool) -> bool:
    """Whether a number has arrived before: in a training that goes on any of its step, else this very one."""
    known = [metric for metric in client.get_metric_history(run_id, name) if metric.step == waiting.step]
    return any(goes_on or metric.timestamp == waiting.time for metric in known)


def _send_images(client: Any, run_id: str, start: int, waiting: Waiting) -> None:
    """Each picture and its thumbnail for MLflow's image view, under the names of `mlflow.log_image`.

    Those contain a time and a random number, by which a second try would leave two pictures: here the time is that of
    the run, and the number follows from the rest.
    """
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        for path in sorted(waiting.files.glob("*.png")):
            key = (
                f"{ROOT}~{path.stem}"  # the UI draws one card a key, so keys stay few and the epoch goes into the step
            )
            number = uuid.uuid5(uuid.NAMESPACE_OID, f"{run_id} {key} {waiting.step}")
            name = f"{key}+step+{waiting.step}+timestamp+{start}+{number}"
            with Image.open(path) as picture:
                shown = picture.convert("RGB")
            shown.save(Path(folder) / f"{name}.png")
            shown.thumbnail((_THUMBNAIL, _THUMBNAIL))
            shown.save(Path(folder) / f"{name}+compressed.webp")
        if any(Path(folder).iterdir()):
            client.log_artifacts(run_id, folder, "images")
            _tag(client, run_id, {"mlflow.loggedImages": "True"})


def _is_known_trouble(name: str, tags: Mapping[str, str]) -> bool:
    """Whether an earlier training of the run has said it; what ended that one is said anew."""
    return name.startswith(TROUBLE) and name != TROUBLE + FIT and name in tags


def _tag(client: Any, run_id: str, tags: dict[str, str]) -> None:
    from mlflow.entities import RunTag

    client.log_batch(run_id, tags=[RunTag(*tag) for tag in tags.items()])


def _gone(uri: str) -> Unsent | None:
    """That nobody listens at the address, which says more than what a request that was under way has raised."""
    try:
        check_reachable(uri)
    except Unsent as error:
        return error
    return None


def reason(error: Exception) -> str:
    """An error in a line, without passwords."""
    words = re.sub(r"\s+", " ", without_secrets(str(error)))
    cut = words if len(words) <= _LONGEST_REASON else f"{words[:_LONGEST_REASON]}..."
    return cut if isinstance(error, Unsent) else f"{type(error).__name__}: {cut}"
