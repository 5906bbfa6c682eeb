"""What MLflow already has: rounds of a run, models by their address, and explanations kept with a logged model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from keras_explain.errors import InputError, MissingExtra, without_secrets
from keras_explain.tracking import ROOT

_ADDRESSES = ("models:/", "runs:/")
_RUN = re.compile(r"[0-9a-f]{32}")


def is_address(text: str) -> bool:
    """Whether a text is MLflow's address of something, `models:/...` or `runs:/...`, and no file."""
    return text.startswith(_ADDRESSES)


def rounds_of(source: str, into: Path, last: bool = False) -> Path:
    """The folder of the rounds of a run.

    Args:
        source: a folder, which is given back; else a run by its id or `runs:/<id>`, whose rounds are downloaded.
        into: an existing folder for them.
        last: of a run, the last round alone.

    Raises:
        InputError: neither folder nor run, or a run without rounds.
        MissingExtra: mlflow is not installed.
    """
    if Path(source).is_dir():
        return Path(source)
    run_id = source.removeprefix("runs:/").split("/")[0]
    if not _RUN.fullmatch(run_id):  # asking MLflow would make a store where there is none
        raise InputError(f"{source!r} is no folder, and no id of a run, which has 32 letters and digits.")
    mlflow = _mlflow()
    client = mlflow.MlflowClient()
    try:
        entries = client.list_artifacts(run_id, ROOT)
    except mlflow.exceptions.MlflowException as error:
        words = f"{source!r} is no folder, and no run of {mlflow.get_tracking_uri()}: {error}"
        raise InputError(without_secrets(words)) from None  # MLflow's own message has the address whole
    rounds = [entry.path for entry in entries if entry.is_dir]
    if not rounds:
        raise InputError(without_secrets(f"The run {run_id} of {mlflow.get_tracking_uri()} holds no explanations."))
    rounds = sorted(rounds, key=lambda path: (len(path), path))[-1 if last else 0 :]
    places = [Path(client.download_artifacts(run_id, path, str(into))) for path in rounds]
    return places[0].parent


def load_logged_model(address: str) -> Any:
    """The Keras model behind `models:/<name>/<version>`, `models:/<id>` or `runs:/<id>/<name>`.

    Args:
        address: of a model that was logged with `mlflow.keras` or `mlflow.tensorflow`.

    Raises:
        InputError: nothing there, or no Keras model.
        MissingExtra: mlflow is not installed.
    """
    mlflow = _mlflow()
    try:
        wrapped = mlflow.pyfunc.load_model(address)
    except (mlflow.exceptions.MlflowException, OSError) as error:
        words = f"{address} cannot be loaded from {mlflow.get_tracking_uri()}: {error}"
        raise InputError(without_secrets(words)) from None
    model = wrapped.get_raw_model()
    if not hasattr(model, "layers"):
        raise InputError(f"{address} is a {type(model).__name__}; a Keras model is needed.")
    return model


def keep_with_model(address: str, round_folder: Path, page: Path) -> str:
    """Store a round and its page with a logged model, under `explanations`.

    Args:
        address: of the model.
        round_folder: the files of the round.
        page: the HTML file.

    Returns:
        The id of the model.

    Raises:
        InputError: a model that MLflow knows only as files of a run, as before MLflow 3.
    """
    mlflow = _mlflow()
    model_id = mlflow.models.get_model_info(address).model_id
    if model_id is None:
        raise InputError(f"{address} has no model id, as models logged before MLflow 3: nothing can be kept with it.")
    client = mlflow.MlflowClient()
    client.log_model_artifacts(model_id, str(round_folder), f"{ROOT}/{round_folder.name}")
    client.log_model_artifact(model_id, str(page), ROOT)
    return str(model_id)


def _mlflow() -> Any:
    try:
        import mlflow
    except ImportError as error:
        raise MissingExtra("Runs and logged models need mlflow: pip install mlflow") from error
    return mlflow
