"""Time the methods on a ResNet50 against raw compiled passes and against their peers: `python -m benchmarks`.

Raw passes, ours and the peers' work are warmed up and then run in turn, several times; ratios are medians of those
within a turn, since seconds belong to the machine and to the minute. Raw passes are compiled, in batches of 16; where
several classes are explained, one forward pass is counted for all of them, which is the limit of what can be done.
"""

import argparse
import statistics
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np

import keras_explain as kx
from benchmarks import record

CLASSES, BATCH = 5, 16


@dataclass
class Row:
    """One kind of work: what it is, its raw passes as (forward, gradient), our call, and those of the peers."""

    work: str
    passes: tuple[float, float]
    ours: callable
    peers: dict = field(default_factory=dict)

    def lines(self, raw, rounds):
        """Lines of the table, one a peer."""
        calls = {"ours": self.ours, **self.peers}
        first = {name: seconds(call) for name, call in calls.items()}
        turns = [
            {**{name: seconds(call) for name, call in calls.items()}, "raw": raw.seconds(*self.passes)}
            for _ in range(rounds)
        ]

        def ratio(a, b):
            return f"{statistics.median(turn[a] / turn[b] for turn in turns):.2f}" if turns[0][b] else "-"

        ours = f"{statistics.median(turn['ours'] for turn in turns):.2f} | {ratio('ours', 'raw')}"
        start = f"| {self.work} | {ours} | {first['ours']:.1f} |"
        if not self.peers:
            yield f"{start} - | - | - | - | - |"
        for name in self.peers:
            peer = f"{statistics.median(turn[name] for turn in turns):.2f} | {ratio(name, 'raw')}"
            yield f"{start} {name} | {peer} | {first[name]:.1f} | **{ratio(name, 'ours')}** |"


def seconds(call):
    """What one call takes; some peers cannot be run from here and tell it themselves."""
    start = time.perf_counter()
    told = call()
    return told if isinstance(told, float) else time.perf_counter() - start


class Raw:
    """Compiled passes of a batch, and what so many of them take now."""

    def __init__(self, model, images):
        import tensorflow as tf

        @tf.function(reduce_retracing=True)
        def gradient(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                score = tf.reduce_sum(model(x, training=False)[:, 0])
            return tape.gradient(score, x)

        forward = tf.function(lambda x: model(x, training=False), reduce_retracing=True)
        batch = tf.constant(np.repeat(images, BATCH, axis=0)[:BATCH])
        self._calls = lambda: forward(batch).numpy(), lambda: gradient(batch).numpy()
        self.seconds(1, 1)

    def each(self):
        """Seconds of a forward pass and of one with its gradient."""
        return [seconds(call) / BATCH for call in self._calls]

    def seconds(self, forwards, gradients):
        """What so many forward passes, and so many with a gradient, take."""
        forward, gradient = self.each()
        return forwards * forward + gradients * gradient


class Elsewhere:
    """Peers in another Python, see elsewhere.py."""

    def __init__(self, python, *numbers):
        command = [python, Path(__file__).with_name("elsewhere.py"), *map(str, numbers)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def job(self, name):
        """A call that has one job done there."""

        def call():
            print(name, file=self._process.stdin, flush=True)
            for line in self._process.stdout:  # among it what the peers print themselves
                if line.startswith("took "):
                    return float(line.split()[1])
            raise RuntimeError(f"{name} failed in the other environment")

        return call


def linear_twin(model):
    """The model without its softmax, for peers that know nothing of heads."""
    head = model.layers[-1]
    linear = keras.layers.Dense(head.units)
    twin = keras.Model(model.inputs, linear(head.input))
    linear.set_weights(head.get_weights())
    return twin


def saliency_rows(model, images, there):
    """The three rules for a batch, and those of the images of a round."""
    from tf_keras_vis.saliency import Saliency
    from tf_keras_vis.utils.model_modifiers import GuidedBackpropagation, ReplaceToLinear
    from tf_keras_vis.utils.scores import CategoricalScore

    scorer = kx.Scorer(model)

    def vis(rule, count):
        # Built anew for each call, as it must be in training, because it copies the weights.
        modifiers = [ReplaceToLinear(), *([GuidedBackpropagation()] if rule == "guided" else [])]
        saliency = Saliency(model, model_modifier=modifiers, clone=True)
        return saliency(CategoricalScore([0] * count), images[:count], keepdims=True)

    for count in (BATCH, CLASSES):
        for rule in ("vanilla", "guided", "rectified"):
            peers = {"tf-keras-vis": lambda rule=rule, count=count: vis(rule, count)} if rule != "rectified" else {}
            if there and count == BATCH:
                peers["xplique"] = there.job(rule)
                if rule == "vanilla":
                    peers["tf-explain (callback)"] = there.job("tf-explain vanilla")
            work = f"{rule}, {count} images"
            yield Row(work, (0, count), lambda r=rule, n=count: kx.explain(scorer, images[:n], r, targets=0), peers)


def integral_rows(model, images, steps, there):
    """Integrated Gradients of one image."""
    scorer = kx.Scorer(model)
    names = {"xplique": "integral", "tf-explain (callback)": "tf-explain integral"} if there else {}
    peers = {peer: there.job(name) for peer, name in names.items()}
    integral = kx.IntegratedGradients(steps)
    work = f"integrated_gradients, 1 image, {steps} steps"
    yield Row(work, (2, steps), lambda: kx.explain(scorer, images[:1], integral, targets=0), peers)


def shap_rows(model, twin, images, samples):
    """Expected gradients of one image, of all classes and of one."""
    import shap

    scorer, background = kx.Scorer(model), images
    explainer = shap.GradientExplainer(twin, background)
    method = kx.GradientShap(background, samples)
    forward_only = samples * (1 - CLASSES)  # a gradient pass has a forward in it, of which all classes need but one
    yield Row(
        f"gradient_shap, 1 image, {CLASSES} classes, {samples} samples",
        (1 + len(background) + forward_only, samples * CLASSES),
        lambda: kx.explain(scorer, images[:1], method, targets="all"),
        {"shap": lambda: explainer.shap_values(images[:1], nsamples=samples, rseed=0)},
    )
    yield Row(
        f"gradient_shap, 1 image, 1 class, {samples} samples",
        (1 + len(background), samples),
        lambda: kx.explain(scorer, images[:1], method, targets=0),
        {"shap": lambda: explainer.shap_values(images[:1], nsamples=samples, ranked_outputs=1, rseed=0)},
    )


def lime_rows(model, twin, images, samples, there):
    """LIME of one image, segmentation, subsets and fit included: with lime's own settings, and with ours."""
    import tensorflow as tf
    from lime.lime_image import LimeImageExplainer

    compiled = tf.function(lambda x: twin(x, training=False), reduce_retracing=True)
    scorer = kx.Scorer(model)
    image = images[0].astype("float64")

    def peer():
        LimeImageExplainer(random_state=0).explain_instance(
            image,
            lambda x: compiled(x.astype("float32")).numpy(),
            hide_color=None,
            num_samples=samples,
            batch_size=BATCH,
            random_seed=0,
        )

    peers = {"lime": peer, **({"xplique": there.job("lime")} if there else {})}
    alike, own = kx.Lime(samples, "quickshift", "mean", sampling="random"), kx.Lime(samples)
    for words, method, others in (("lime's settings", alike, peers), ("our settings", own, {"lime": peer})):
        work = f"lime, 1 image, {samples} samples, {words}"
        yield Row(work, (samples, 0), lambda m=method: kx.explain(scorer, images[:1], m, targets=0), others)


def curve_rows(model, images, there):
    """Deletion and insertion of two maps."""
    scorer = kx.Scorer(model)
    samples = kx.Samples(images[:2], [0, 0])
    maps = kx.Attribution("random", np.random.default_rng(1).random(samples.images.shape), [0, 0], [0, 1], [0, 0])
    metric = [kx.metrics.Faithfulness(16, baseline=0.0)]
    peers = {"xplique": there.job("curves")} if there else {}
    yield Row(
        "deletion and insertion, 2 maps, 16 steps",
        (4 * 17, 0),
        lambda: kx.metrics.evaluate(scorer, samples, maps, metrics=metric),
        peers,
    )


def selection_rows(model, images):
    """The pass that chooses images, beside Keras' own of the same data."""
    data = np.repeat(images, 4, axis=0), np.arange(4 * len(images)) % CLASSES
    scorer = kx.Scorer(model)
    yield Row(
        f"select, {len(data[0])} images",
        (len(data[0]), 0),
        lambda: kx.select(scorer, data, background=10),
        {"model.predict": lambda: model.predict(data[0], verbose=0)},
    )
    keras.utils.set_random_seed(0)
    convolutions = [keras.layers.Conv2D(16 * n, 3, 2, activation="relu") for n in (1, 2, 3)]
    end = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(CLASSES, "softmax")]
    small = keras.Sequential([keras.Input((64, 64, 1)), *convolutions, *end])
    many = np.random.default_rng(0).random((5000, 64, 64, 1), "float32"), np.arange(5000) % CLASSES
    small_scorer = kx.Scorer(small)
    yield Row(
        "select, 5000 images of 64 x 64, small network",
        (0, 0),
        lambda: kx.select(small_scorer, many, background=50),
        {"model.predict": lambda: small.predict(many[0], verbose=0)},
    )


def precision_rows(model, images, steps, samples):
    """Explanations in 16 bits, with our own in float32 for a peer; and how alike the maps are."""
    exact, coarse = (kx.Scorer(model, precision=precision) for precision in (None, "mixed_bfloat16"))
    for name, method, passes in (
        ("vanilla, 16 images", "vanilla", (0, BATCH)),
        (f"integrated_gradients, 1 image, {steps} steps", kx.IntegratedGradients(steps), (2, steps)),
        (f"lime, 1 image, {samples} samples", kx.Lime(samples), (samples, 0)),
    ):
        some = images if method == "vanilla" else images[:1]
        a, b = (kx.explain(s, some[:1], method, targets=0).values.ravel().astype("float64") for s in (exact, coarse))
        cosine = a @ b / np.sqrt((a @ a) * (b @ b))
        yield Row(
            f"{name}, in bfloat16 (cosine {cosine:.4f})",
            passes,
            lambda m=method, some=some: kx.explain(coarse, some, m, targets=0),
            {"float32": lambda m=method, some=some: kx.explain(exact, some, m, targets=0)},
        )


def network(size):
    """A ResNet50 with random weights that let differences through."""
    model = keras.applications.ResNet50(weights=None, classes=CLASSES, input_shape=(size, size, 3))
    random = np.random.default_rng(0)
    for kernel in (variable for variable in model.trainable_variables if len(variable.shape) > 1):
        kernel.assign(random.normal(0, 1.4 / np.sqrt(np.prod(kernel.shape[:-1])), kernel.shape))
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=299)
    parser.add_argument("--steps", type=int, default=64, help="of Integrated Gradients")
    parser.add_argument("--samples", type=int, default=48, help="of GradientShap; LIME takes four times as many")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", help="a Python with xplique and tf-explain, see elsewhere.py; None leaves them out")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    size, steps, samples = options.size, options.steps, options.samples
    there = Elsewhere(options.peers, size, CLASSES, BATCH, steps, 4 * samples) if options.peers else None
    model = network(size)
    twin = linear_twin(model)
    images = np.random.default_rng(0).random((BATCH, size, size, 3), "float32")
    raw = Raw(twin, images)
    forward, gradient = (1000 * taken for taken in raw.each())
    rows = [
        *saliency_rows(model, images, there),
        *integral_rows(model, images, steps, there),
        *shap_rows(model, twin, images, samples),
        *lime_rows(model, twin, images, 4 * samples, there),
        *curve_rows(model, images, there),
        *selection_rows(model, images),
        *precision_rows(model, images, steps, 4 * samples),
    ]
    lines = [
        f"ResNet50 with random weights, {size} x {size} x 3. Raw compiled passes in batches of {BATCH}: forward "
        f"{forward:.0f} ms, gradient {gradient:.0f} ms an image at the start. Medians of {options.rounds} turns.",
        "",
        "| work | seconds | ratio to raw passes | first call, s | peer | peer's seconds | ratio to raw | first call, s "
        "| times faster |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        for line in row.lines(raw, options.rounds):
            print(line, file=sys.stderr, flush=True)
            lines.append(line)
    lines += [
        "",
        f"Written by `python -m benchmarks --size {size} --steps {steps} --samples {samples}`. First calls compile.",
        "tf-keras-vis is built anew for each call, as it must be in training, because it copies the weights; it has no",
        "rectified rule. xplique and tf-explain run in an environment of their own with TensorFlow 2.20; xplique gives",
        "no score, so that its rectified rule, which needs no forward pass through this network, makes none.",
        "How much faster the same error or stability is reached is this times the ratio in 'Passes to an error'.",
    ]
    record("Speed", lines)


if __name__ == "__main__":
    main()
