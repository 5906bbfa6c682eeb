"""Keras callbacks that explain a model while it is trained."""

from keras_explain.callbacks.explanation import ExplanationCallback

__all__ = ["ExplanationCallback"]
