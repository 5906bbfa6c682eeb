"""Jobs of the peers whose pins ask for an environment of their own, run one at a time as their names come in.

`make bench` makes that environment. This file stands alone, since nothing of this project is installed there: it builds
the same architecture, reads names of jobs from its input and answers each with its seconds.
"""

import sys
import tempfile
import time
import warnings

import keras
import numpy as np


def jobs(size, classes, images, steps, samples):
    """What each peer is asked for: the same work as in the table."""
    from tf_explain.callbacks.integrated_gradients import IntegratedGradientsCallback
    from tf_explain.callbacks.vanilla_gradients import VanillaGradientsCallback
    from xplique import attributions, metrics

    shape = (size, size, 3)
    model = keras.applications.ResNet50(weights=None, classes=classes, input_shape=shape, classifier_activation=None)
    x = np.random.default_rng(0).random((images, *shape), "float32")
    y = np.eye(classes, dtype="float32")[np.zeros(images, int)]
    maps = np.random.default_rng(1).random((2, size, size)).astype("float32")
    integral = attributions.IntegratedGradients(model, batch_size=16, steps=steps)
    lime = attributions.Lime(model, batch_size=16, nb_samples=samples)
    curves = [kind(model, x[:2], y[:2], batch_size=16, steps=16) for kind in (metrics.Deletion, metrics.Insertion)]
    made = {
        "vanilla": attributions.Saliency(model, batch_size=16),
        "guided": attributions.GuidedBackprop(model, batch_size=16),
        "rectified": attributions.DeconvNet(model, batch_size=16),
    }
    callbacks = {
        "tf-explain vanilla": VanillaGradientsCallback((x, y), 0, tempfile.mkdtemp()),
        "tf-explain integral": IntegratedGradientsCallback((x[:1], y[:1]), 0, steps, tempfile.mkdtemp()),
    }
    for callback in callbacks.values():
        callback.set_model(model)
    return {
        **{name: lambda explainer=explainer: explainer.explain(x, y) for name, explainer in made.items()},
        **{name: lambda callback=callback: callback.on_epoch_end(0) for name, callback in callbacks.items()},
        "integral": lambda: integral.explain(x[:1], y[:1]),
        "lime": lambda: lime.explain(x[:1], y[:1]),
        "curves": lambda: [curve.evaluate(maps) for curve in curves],
    }


def main():
    warnings.simplefilter("ignore")
    known = jobs(*map(int, sys.argv[1:]))
    for line in sys.stdin:
        start = time.perf_counter()
        known[line.strip()]()
        print("took", time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main()
