"""What did the network look at, and can it be believed? Explanations of Keras classifiers, inside training."""

from keras_explain import figures, metrics
from keras_explain.callbacks.autolog import autolog
from keras_explain.errors import (
    ExplainError,
    ExplanationWarning,
    HeadError,
    InputError,
    MissingExtra,
    RuleError,
)
from keras_explain.explainers import Explainer, explain
from keras_explain.explainers.cam import GradCam, GradCamPlusPlus
from keras_explain.explainers.gradient_shap import GradientShap
from keras_explain.explainers.integrated_gradients import IntegratedGradients
from keras_explain.explainers.lime import Lime
from keras_explain.explainers.masking import Occlusion, Rise
from keras_explain.explainers.saliency import Saliency
from keras_explain.explainers.score_cam import ScoreCam
from keras_explain.gradients import Scorer
from keras_explain.model_files import load_model
from keras_explain.records import Attribution, Samples, load_round, save_round
from keras_explain.selection import ClassMap, select
from keras_explain.sharded import ExplainedDataset, explain_dataset
from keras_explain.tracking import DirectoryTracker, MlflowTracker, Tracker

__version__ = "0.1.0"

__all__ = [
    "Attribution",
    "ClassMap",
    "DirectoryTracker",
    "ExplainError",
    "ExplainedDataset",
    "Explainer",
    "ExplanationWarning",
    "GradCam",
    "GradCamPlusPlus",
    "GradientShap",
    "HeadError",
    "InputError",
    "IntegratedGradients",
    "Lime",
    "MissingExtra",
    "MlflowTracker",
    "Occlusion",
    "Rise",
    "RuleError",
    "Saliency",
    "Samples",
    "ScoreCam",
    "Scorer",
    "Tracker",
    "autolog",
    "explain",
    "explain_dataset",
    "figures",
    "load_model",
    "load_round",
    "metrics",
    "save_round",
    "select",
]
