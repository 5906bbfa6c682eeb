"""Makes tests/data/quantus.npz: what Quantus 0.6 says of known maps of a known model.

Quantus is pinned to Keras 2, so it lives in an environment of its own:

    python -m venv quantus && quantus/bin/pip install quantus==0.6.0
    quantus/bin/python tests/quantus_values.py

The model is softmax(x W) on images of 8 x 8 pixels, and the maps are random; nothing here comes from keras_explain.
"""

from pathlib import Path

import numpy as np
import quantus
from quantus.functions.similarity_func import correlation_spearman

SIDE, CLASSES, STEPS, DRAWS, RADIUS = 8, 3, 16, 10, 0.02


class Model:
    """The little that Quantus asks of a model."""

    def __init__(self, weights):
        self.weights = weights

    def shape_input(self, x, shape, channel_first=None, batched=False):
        return x.reshape(shape)

    def predict(self, x):
        logits = x.reshape(len(x), -1) @ self.weights
        exp = np.exp(logits - logits.max(axis=1, keepdims=True))
        return exp / exp.sum(axis=1, keepdims=True)


class Logits(Model):
    def predict(self, x):
        return x.reshape(len(x), -1) @ self.weights


def main():
    random = np.random.default_rng(0)
    n, pixels = 6, SIDE * SIDE
    images = random.random((n, 1, SIDE, SIDE)).astype("float32")
    weights = random.normal(0, 0.5, (pixels, CLASSES)).astype("float32")
    targets = np.arange(n) % CLASSES
    maps = random.normal(size=(n, 1, SIDE, SIDE)).astype("float32")
    roi = random.random((n, 1, SIDE, SIDE)) < 0.2
    model, found = Model(weights), {}

    quiet = {"disable_warnings": True, "return_aggregate": False}
    found["pointing_game"] = quantus.PointingGame(**quiet).evaluate_batch(a_batch=maps, s_batch=roi)
    found["relevance_rank"] = quantus.RelevanceRankAccuracy(**quiet).evaluate_batch(a_batch=maps, s_batch=roi)
    # Quantus divides by the signed sum; the definition is of positive relevance, so it is given that alone.
    positive = np.maximum(maps, 0)
    found["relevance_mass"] = quantus.RelevanceMassAccuracy(**quiet).evaluate_batch(a_batch=positive, s_batch=roi)
    found["relevance_mass_signed"] = quantus.RelevanceMassAccuracy(**quiet).evaluate_batch(a_batch=maps, s_batch=roi)
    nothing = np.zeros_like(roi)
    found["pointing_game_empty"] = quantus.PointingGame(**quiet).evaluate_batch(a_batch=maps, s_batch=nothing)

    flipping = quantus.PixelFlipping(features_in_step=pixels // STEPS, perturb_baseline=0.0, **quiet)
    found["deletion"] = flipping.evaluate_batch(model=model, x_batch=images, y_batch=targets, a_batch=maps)

    def product(model, inputs, targets, **options):
        """Gradient times input times itself, which moves with the image."""
        return inputs**2 * model.weights[:, targets].T.reshape(inputs.shape)

    noise = np.random.default_rng(0)
    sensitivity = quantus.MaxSensitivity(
        nr_samples=DRAWS,
        perturb_func=lambda arr, indices, **_: arr + noise.uniform(-RADIUS, RADIUS, arr.shape),
        **quiet,
    )
    sensitivity.explain_func, sensitivity.explain_func_kwargs = product, {}
    squared = product(model, images, targets)
    found["max_sensitivity"] = sensitivity.evaluate_batch(model=model, x_batch=images, y_batch=targets, a_batch=squared)

    # Gradient times input of a linear score is complete: its sum is f(x) - f(0), but not to the last bit.
    complete = quantus.Completeness(perturb_baseline=0.0, **quiet)
    exact = images * weights[:, targets].T.reshape(images.shape)
    found["completeness"] = complete.evaluate_batch(Logits(weights), images, targets, exact)

    found["spearman"] = correlation_spearman(maps.reshape(n, -1), squared.reshape(n, -1), batched=True)
    given = {"images": images, "weights": weights, "targets": targets, "maps": maps, "roi": roi, "squared": squared}
    path = Path(__file__).parent / "data" / "quantus.npz"
    np.savez_compressed(path, **given, **{name: np.asarray(values) for name, values in found.items()})
    for name, values in found.items():
        print(name, np.asarray(values).tolist())


if __name__ == "__main__":
    main()
