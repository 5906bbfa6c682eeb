"""Where rounds of explanation go: MLflow, a folder, or the user's own tracker. The one place that imports mlflow.

A round is a folder of pictures (`<name>.png`), arrays (`.npz`) and `settings.json`, with numbers beside it. Both
trackers keep the same tree, `explanations/epoch_0004/...`.
"""

from keras_explain.tracking.directory import DirectoryTracker
from keras_explain.tracking.mlflow_tracker import MlflowTracker
from keras_explain.tracking.protocol import PAGE, ROOT, KeepsHistory, Tracker, round_name, step_of

__all__ = [
    "PAGE",
    "ROOT",
    "DirectoryTracker",
    "KeepsHistory",
    "MlflowTracker",
    "Tracker",
    "round_name",
    "step_of",
]
