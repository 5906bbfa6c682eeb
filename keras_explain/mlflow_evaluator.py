"""MLflow's `mlflow.models.evaluate(..., evaluators="keras_explain")`: the plug-in that it finds by its entry point."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.models import EvaluationResult
from mlflow.models.evaluation import ModelEvaluator
from mlflow.models.evaluation.artifacts import TextEvaluationArtifact

from keras_explain.datasets.cases import Case, Stream
from keras_explain.datasets.own import pixels
from keras_explain.datasets.preprocessing import Preprocessing
from keras_explain.engine import finite
from keras_explain.errors import InputError
from keras_explain.gradients import Scorer
from keras_explain.post_training import explain_selected
from keras_explain.selection import rescales, select
from keras_explain.tracking import PAGE, MlflowTracker

_SELECTING = ("class_names", "images_per_class", "candidates", "background")
_EXPLAINING = ("metrics", "why_not", "title")
_PREPARING = ("scale", "window")


class KerasExplainEvaluator(ModelEvaluator):
    """Explains a Keras classifier on the data of an evaluation, and logs pictures, arrays, numbers and page to its run.

    The data are a DataFrame with a column of picture files (`image`, or the only one beside the targets), since MLflow
    takes no arrays of four axes, or flat numbers (n, height * width * channels) as the model receives them.

    It takes part where `evaluator_config` names something of it, at least the methods. There may be: `methods`,
    `metrics`, `why_not`, `class_names`, `images_per_class`, `candidates`, `background`, `seed`, `title`; `scale` and
    `window`, or `preprocessing` as in a round's settings.
    """

    @classmethod
    def can_evaluate(cls, *, model_type: str, evaluator_config: dict[str, Any], **kwargs: Any) -> bool:
        """Classifiers, where the config asks for it: MLflow offers every evaluation to all that are installed."""
        return model_type == "classifier" and bool(evaluator_config)

    def evaluate(
        self,
        *,
        model_type: str,
        dataset: Any,
        run_id: str,
        evaluator_config: dict[str, Any],
        model: Any = None,
        **_: Any,
    ) -> EvaluationResult:
        """Select, explain, measure and log.

        Raises:
            InputError: no Keras model, data without labels, an option that is not known.
            Unsent: the tracking server does not take the result, which is kept where the error says.
        """
        config = dict(evaluator_config)
        known = {"methods", "seed", "preprocessing", *_SELECTING, *_EXPLAINING, *_PREPARING}
        if unknown := sorted(set(config) - known):
            raise InputError(f"evaluator_config has {', '.join(unknown)}; known are {', '.join(sorted(known))}.")
        keras_model = model.get_raw_model() if model is not None else None
        if not hasattr(keras_model, "layers"):
            raise InputError(f"A Keras model is needed; got {type(keras_model).__name__}.")
        if dataset.labels_data is None:
            raise InputError("The data need labels: give targets= of evaluate.")
        seed = int(config.get("seed", 0))
        scorer = Scorer(keras_model)
        data = _data(dataset, keras_model, config)
        chosen = {"background": 50, **{name: config[name] for name in _SELECTING if name in config}}
        samples = select(scorer, data, seed=seed, **chosen)
        with tempfile.TemporaryDirectory() as folder:
            found = explain_selected(
                scorer,
                samples,
                config.get("methods", ["vanilla", "integrated_gradients"]),
                folder,
                seed=seed,
                **{name: config[name] for name in _EXPLAINING if name in config},
            )
            numbers = finite(found.numbers)
            tracker = MlflowTracker(run_id, mlflow.get_tracking_uri())
            tracker.start({})
            tracker.log_round(0, Path(folder) / "round", numbers)
            page = Path(folder) / "report.html"
            tracker.log_report(page)
            tracker.finish()
            artifact = TextEvaluationArtifact(f"runs:/{run_id}/{PAGE}", page.read_text("utf-8"))
        return EvaluationResult(metrics=numbers, artifacts={"keras_explain_report": artifact}, run_id=run_id)


def _data(dataset: Any, model: Any, config: dict[str, Any]) -> Any:
    """Pictures of the files that a column names, or flat images in the model's shape."""
    features, labels = dataset.features_data, np.asarray(dataset.labels_data)
    names = list(config.get("class_names", ()))
    if labels.dtype.kind not in "iu":
        if unknown := [label for label in labels.tolist() if label not in names]:
            raise InputError(f"The label {unknown[0]!r} is no number, and none of class_names: {', '.join(names)}.")
        labels = np.array([names.index(label) for label in labels.tolist()])
    shape = model.input_shape[1:]
    if not hasattr(features, "columns"):
        return np.asarray(features, "float32").reshape(-1, *shape), labels.astype("int64")
    texts = [name for name in features.columns if all(isinstance(value, (str, Path)) for value in features[name])]
    if len(texts) > 1 and "image" not in texts:
        raise InputError(f"data have the columns {', '.join(texts)}; call that of the picture files 'image'.")
    named = "image" if "image" in features.columns else texts[0] if texts else features.columns[0]
    if not all(isinstance(value, (str, Path)) for value in features[named]):
        if features.shape[1] != np.prod(shape):
            raise InputError(f"data need a column of picture files, or {np.prod(shape)} numbers a row for {shape}.")
        return features.to_numpy("float32").reshape(-1, *shape), labels.astype("int64")
    files = [Path(value) for value in features[named]]
    cases = [
        Case(f"{i}: {file.name}", int(label), partial(pixels, file))
        for i, (file, label) in enumerate(zip(files, labels, strict=True))
    ]
    if "preprocessing" in config:
        made = Preprocessing.from_settings(config["preprocessing"])
    else:
        scale = config.get("scale", (0.0, 255.0) if rescales(model) else (0.0, 1.0))
        made = Preprocessing(shape[:2], shape[2], scale, config.get("window"))
    return Stream(cases, made)
