"""How many passes sampling takes to an error: `python -m benchmarks.sampling`.

On a small network that was trained on phantoms, so that errors are those of sampling alone and references can be exact:
LIME's weights against those of 20,000 random subsets, GradientShap against every background image integrated with 48
Gauss-Legendre nodes, Integrated Gradients against 256 nodes. Errors are root mean squares over images and repetitions,
relative to the reference.
"""

import argparse
import warnings

import keras
import numpy as np

import keras_explain as kx
from benchmarks import record
from keras_explain.datasets import phantom
from keras_explain.explainers.gradient_shap import point_on_path
from keras_explain.explainers.lime import balanced_subsets, kernel, partly_hidden, random_subsets
from keras_explain.explainers.masking import hidden_image

REPETITIONS = 6


def trained(epochs):
    """A small network of five phantom classes."""
    keras.utils.set_random_seed(0)
    layers = [keras.Input((64, 64, 1)), keras.layers.Conv2D(16, 5, 2, activation="relu")]
    layers += [keras.layers.Conv2D(32, 3, 2, activation="relu"), keras.layers.Conv2D(48, 3, activation="relu")]
    layers += [keras.layers.GlobalMaxPooling2D(), keras.layers.Dense(5, activation="softmax")]
    model = keras.Sequential(layers)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(phantom.Stream(1200, size=64, seed=0), epochs=epochs, verbose=0)
    return model


def paired_subsets(n, count, seed):
    """Random subsets, each with its complement."""
    half = random_subsets(1 + (n - 1) // 2, count, seed)[1:]
    return np.concatenate([np.ones((1, count), "float32"), half, 1 - half])


def relative(found, reference):
    """Squared error as a share of the squared reference."""
    return ((found - reference) ** 2).sum() / (reference**2).sum()


def lime_rows(scorer, samples):
    """Error and stability of the weights, by number of subsets and way to draw them."""
    counts, designs = (129, 257, 513, 1001, 3001), [random_subsets, paired_subsets, balanced_subsets]
    squares, stable, adaptive = {}, {}, []
    lime = kx.Lime()
    for image, (target,) in zip(samples.images, samples.targets, strict=True):
        segments = lime._segments(image, samples.value_range)
        hidden, count = hidden_image(image, "blur", segments), int(segments.max()) + 1

        def weights(present, image=image, segments=segments, hidden=hidden, target=target):
            score = scorer.evaluate(partly_hidden, [present], [segments, image, hidden])[:, target].astype("float64")
            near = kernel(1 - np.sqrt(present.mean(axis=1, dtype="float64")))
            design = present - np.average(present, axis=0, weights=near)
            gram = design.T @ (near[:, None] * design) + np.eye(present.shape[1])
            return np.linalg.solve(gram, design.T @ (near * (score - np.average(score, weights=near))))

        reference = np.mean([weights(draw(20_000, count, 99)) for draw in (random_subsets, paired_subsets)], axis=0)
        for draw in designs:
            for n in counts:
                found = [weights(draw(n, count, seed)) for seed in range(REPETITIONS)]
                best = [set(np.argsort(-np.abs(w))[:5]) for w in found]
                shared = [len(a & b) / 5 for i, a in enumerate(best) for b in best[:i]]
                squares.setdefault((draw, n), []).append(np.mean([relative(w, reference) for w in found]))
                stable.setdefault((draw, n), []).append(100 * np.mean(shared))
        adaptive.append(_until_stable(weights, count))
    yield "| subsets | " + " | ".join(map(str, counts)) + " |"
    yield "|---" * (1 + len(counts)) + "|"
    for draw, name in zip(designs, ("random (lime)", "random, with complements", "balanced"), strict=True):
        cells = [f"{np.sqrt(np.mean(squares[draw, n])):.3f}, {np.mean(stable[draw, n]):.0f}" for n in counts]
        yield f"| {name} | " + " | ".join(cells) + " |"
    passes, shared = np.mean(adaptive, axis=0)
    yield ""
    yield f"Balanced subsets doubled until the five largest stay the same: {passes:.0f} passes, VSI {100 * shared:.0f}."


def _until_stable(weights, count):
    """Passes that doubling takes until the five largest weights stay the same, and what two repetitions then share."""
    ended, passes = [], []
    for seed in range(REPETITIONS):
        n, before, best = 129, None, {-1}
        while best != before and n < 3000:
            before, best = best, set(np.argsort(-np.abs(weights(balanced_subsets(n, count, seed))))[:5])
            n = 2 * n - 1
        ended.append(best)
        passes.append((n + 1) // 2)
    return np.mean(passes), np.mean([len(a & b) / 5 for i, a in enumerate(ended) for b in ended[:i]])


def shap_rows(scorer, samples):
    """Error of GradientShap, by number of points and way to draw them."""
    counts, background = (25, 40, 50, 60, 100, 200), samples.background
    squares = {}
    for image, (target,) in zip(samples.images, samples.targets, strict=True):
        differences = image - background

        def terms(index, alpha, image=image, target=target, differences=differences):
            asked = np.full((len(index), 1), target)
            arrays = [background[index], alpha.astype("float32")]
            _, gradients = scorer.differentiate(point_on_path, every_point, asked, arrays, [image[None]])
            return differences[index] * gradients[:, 0]

        nodes, share = np.polynomial.legendre.leggauss(48)
        each = (terms(np.full(48, b), (nodes + 1) / 2) for b in range(len(background)))
        reference = sum(np.tensordot(share / 2, values, 1) for values in each) / len(background)
        for seed in range(REPETITIONS):
            random = np.random.default_rng(seed)
            for n in counts:
                ways = {
                    "random (shap)": (random.integers(0, len(background), n), random.random(n)),
                    "stratified": kx.GradientShap(background, n, seed)._points(len(background)),
                }
                for name, points in ways.items():
                    squares.setdefault((name, n), []).append(relative(terms(*points).mean(axis=0), reference))
    yield "| points | " + " | ".join(map(str, counts)) + " |"
    yield "|---" * (1 + len(counts)) + "|"
    for name in ("random (shap)", "stratified"):
        yield f"| {name} | " + " | ".join(f"{np.sqrt(np.mean(squares[name, n])):.3f}" for n in counts) + " |"


def every_point(gradients, *arrays):
    """The gradients as they are."""
    return keras.ops.moveaxis(gradients, 0, 1)


def integral_rows(scorer, samples):
    """Relative completeness error of Integrated Gradients, by steps and rule."""
    counts = (4, 8, 16, 32, 64, 100)
    errors = {}
    for image, (target,) in zip(samples.images, samples.targets, strict=True):
        zero = np.zeros_like(image)[None]
        change = float(np.diff(scorer.logits(np.stack([zero[0], image]))[:, target])[0])
        for n in counts:
            nodes, share = np.polynomial.legendre.leggauss(n)
            ends = np.linspace(0, 1, n)
            trapezoid = np.full(n, 1 / (n - 1))
            trapezoid[[0, -1]] /= 2
            rules = {
                "Gauss-Legendre": ((nodes + 1) / 2, share / 2),
                "trapezoid": (ends, trapezoid),
                "midpoint": ((np.arange(n) + 0.5) / n, np.full(n, 1 / n)),
                "right Riemann": (np.arange(1, n + 1) / n, np.full(n, 1 / n)),
            }
            for name, (alpha, weight) in rules.items():
                arrays = [np.zeros((n, *image.shape), "float32"), alpha.astype("float32")]
                asked = np.full((n, 1), target)
                _, gradients = scorer.differentiate(point_on_path, every_point, asked, arrays, [image[None]])
                total = float((weight * (gradients[:, 0] * image).reshape(n, -1).sum(axis=1, dtype="float64")).sum())
                errors.setdefault((name, n), []).append(abs(total - change) / abs(change))
    yield "| steps | " + " | ".join(map(str, counts)) + " |"
    yield "|---" * (1 + len(counts)) + "|"
    for name in ("Gauss-Legendre", "trapezoid", "midpoint", "right Riemann"):
        yield f"| {name} | " + " | ".join(f"{100 * np.median(errors[name, n]):.2f} %" for n in counts) + " |"
    yield ""
    for start in (8, 16):
        integral = kx.IntegratedGradients(start, tolerance=0.01)
        found = kx.explain(scorer, samples, integral)
        used, doubled = found.settings["steps_used"], []
        for i in range(len(samples)):
            steps = start
            while kx.explain(scorer, samples[[i]], kx.IntegratedGradients(steps)).relative_completeness_error[0] > 0.01:
                steps *= 2
            doubled.append(2 * steps - start)
        yield (
            f"To 1 % for every image, from {start} steps on: {np.mean(used):.0f} gradients an image with "
            f"`tolerance=0.01` (at most {max(used)}); {np.mean(doubled):.0f} if Gauss-Legendre "
            "were done again with twice the nodes."
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    model = trained(options.epochs)
    valid = phantom.Stream(200, size=64, seed=1)
    samples = kx.select(model, valid, images_per_class=2, background=50)
    scorer = kx.Scorer(model)
    lines = [f"{len(samples)} images of 64 pixels, a network with an accuracy of {samples.accuracy:.2f}.", ""]
    lines += ["LIME, about 50 superpixels: relative error of the weights, and VSI (the share of the five largest", ""]
    lines[-2] += " superpixels that two repetitions have in common, in percent)."
    lines += [*lime_rows(scorer, samples), ""]
    lines += ["GradientShap, background of 50: relative error of the map.", ""]
    lines += [*shap_rows(scorer, samples), ""]
    lines += ["Integrated Gradients from a black image: median relative completeness error.", ""]
    lines += [*integral_rows(scorer, samples)]
    record("Passes to an error", lines)


if __name__ == "__main__":
    main()
