"""Keras callbacks that explain a model while it is trained, and the metric that chooses its images."""

from keras_explain.callbacks.explanation import ExplanationCallback
from keras_explain.callbacks.top_confidence import TopConfidence

__all__ = ["ExplanationCallback", "TopConfidence"]
