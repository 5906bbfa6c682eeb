"""Time the methods on a ResNet50 against raw compiled passes and against their peers: `make bench`.

Each row does the same work as its peer, both are warmed up first, run in turn, and the median is taken. Ratios are what
counts: seconds belong to the machine. The table goes to benchmarks/RESULTS.md.
"""

import argparse
import statistics
import time
import warnings

import keras
import numpy as np

import keras_explain as kx
from benchmarks import record

CLASSES, ROUNDS = 5, 3


def seconds(*calls):
    """Median seconds of each call, run in turn after a warm-up."""
    times = [[] for _ in calls]
    for call in calls:
        call()
    for _ in range(ROUNDS):
        for call, taken in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in times]


def linear_twin(model):
    """The model without its softmax, for peers that know nothing of heads."""
    head = model.layers[-1]
    linear = keras.layers.Dense(head.units)
    twin = keras.Model(model.inputs, linear(head.input))
    linear.set_weights(head.get_weights())
    return twin


def raw_passes(twin, images, n):
    """n forward passes, and n passes with their gradient, compiled and in batches of 16."""
    import tensorflow as tf

    @tf.function(reduce_retracing=True)
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            score = tf.reduce_sum(twin(x, training=False)[:, 0])
        return tape.gradient(score, x)

    forward = tf.function(lambda x: twin(x, training=False), reduce_retracing=True)
    batch = tf.constant(np.repeat(images, 16, axis=0)[:16])
    return (lambda: [forward(batch) for _ in range(n // 16)]), (lambda: [gradient(batch) for _ in range(n // 16)])


def saliency_rows(model, images):
    """Vanilla and guided for a batch of images, ours and tf-keras-vis'."""
    from tf_keras_vis.saliency import Saliency
    from tf_keras_vis.utils.model_modifiers import GuidedBackpropagation, ReplaceToLinear
    from tf_keras_vis.utils.scores import CategoricalScore

    scorer, score = kx.Scorer(model), CategoricalScore([0] * len(images))
    for rule in ("vanilla", "guided"):
        modifiers = [ReplaceToLinear()] + ([GuidedBackpropagation()] if rule == "guided" else [])

        def peer(modifiers=modifiers):
            return Saliency(model, model_modifier=modifiers, clone=True)(score, images, keepdims=True)

        ours, theirs = seconds(lambda rule=rule: kx.explain(scorer, images, rule, targets=0), peer)
        yield f"{rule}, {len(images)} images", "gradient", len(images), ours, "tf-keras-vis", theirs


def shap_rows(model, twin, images, samples):
    """Expected gradients of one image, all classes."""
    import shap

    scorer, background = kx.Scorer(model), images
    explainer = shap.GradientExplainer(twin, background)
    ours, theirs = seconds(
        lambda: kx.explain(scorer, images[:1], kx.GradientShap(background, samples), targets="all"),
        lambda: explainer.shap_values(images[:1], nsamples=samples, rseed=0),
    )
    yield (
        f"gradient_shap, 1 image, {CLASSES} classes, {samples} samples",
        "gradient",
        samples * CLASSES,
        ours,
        "shap",
        theirs,
    )


def lime_rows(model, twin, images, samples):
    """LIME of one image, segmentation included."""
    import tensorflow as tf
    from lime.lime_image import LimeImageExplainer

    compiled = tf.function(lambda x: twin(x, training=False), reduce_retracing=True)
    scorer = kx.Scorer(model)
    image = images[0].astype("float64")

    def theirs():
        LimeImageExplainer(random_state=0).explain_instance(
            image, lambda x: compiled(x.astype("float32")).numpy(), hide_color=None, num_samples=samples, random_seed=0
        )

    ours, peer = seconds(
        lambda: kx.explain(scorer, images[:1], kx.Lime(samples, "quickshift", "mean"), targets=0), theirs
    )
    yield f"lime, 1 image, {samples} samples", "forward", samples, ours, "lime", peer


def integral_rows(model, images, steps):
    """Integrated Gradients has no peer for Keras 3 in this table."""
    scorer = kx.Scorer(model)
    (ours,) = seconds(lambda: kx.explain(scorer, images[:1], kx.IntegratedGradients(steps), targets=0))
    yield f"integrated_gradients, 1 image, {steps} steps", "gradient", steps, ours, "-", float("nan")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument(
        "--samples", type=int, default=208, help="of GradientShap, a multiple of 16; LIME takes twice it"
    )
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    keras.utils.set_random_seed(0)
    shape = (options.size, options.size, 3)
    model = keras.applications.ResNet50(weights=None, classes=CLASSES, input_shape=shape)
    twin = linear_twin(model)
    images = np.random.default_rng(0).random((options.images, *shape), "float32")
    forward, gradient = (t / 64 for t in seconds(*raw_passes(twin, images, 64)))
    rows = [
        *saliency_rows(model, images),
        *shap_rows(model, twin, images, options.samples),
        *lime_rows(model, twin, images, 2 * options.samples),
        *integral_rows(model, images, 64),
    ]
    lines = [
        f"ResNet50 with random weights, {options.size} x {options.size} x 3. Raw compiled passes in batches of 16: "
        f"forward {1000 * forward:.1f} ms, gradient {1000 * gradient:.1f} ms an image. Medians of {ROUNDS} runs.",
        "",
        "| work | passes | seconds | ratio to raw passes | peer | peer's seconds | times faster |",
        "|---|---|---|---|---|---|---|",
    ]
    for work, kind, passes, ours, peer, theirs in rows:
        raw = passes * (forward if kind == "forward" else gradient)
        faster = f"{theirs:.2f} | {theirs / ours:.2f}" if theirs == theirs else "- | -"
        lines.append(f"| {work} | {passes} {kind} | {ours:.2f} | {ours / raw:.2f} | {peer} | {faster} |")
    lines += [
        "",
        f"Written by `python -m benchmarks --size {options.size} --images {options.images} "
        f"--samples {options.samples}`;",
        "`make bench` takes the defaults. GradientShap's ratio can fall below 1: all classes share one",
        "forward pass, the raw passes do not. tf-keras-vis is built anew for each call, as it must be in training,",
        "because it copies the weights.",
    ]
    record("Speed", lines)


if __name__ == "__main__":
    main()
