"""Slow, literal twins of the methods in float64, to be compared with the fast ones.

The network is a two-layer perceptron whose forward and backward pass are written out, so nothing here depends on a
gradient library: h = W1' x + b1, z = W2' relu(h) + b2.
"""

import keras
import numpy as np
from keras import layers


class Mlp:
    """A two-layer perceptron on images, once as numpy and once as a Keras model with the same weights."""

    def __init__(self, shape=(3, 4, 2), hidden=7, classes=3, seed=0, cap=None):
        random = np.random.default_rng(seed)
        d = int(np.prod(shape))
        self.shape, self.cap = shape, cap
        self.w1, self.b1 = random.normal(0, 0.7, (d, hidden)), random.normal(0, 0.3, hidden)
        self.w2, self.b2 = random.normal(0, 1, (hidden, classes)), random.normal(0, 0.3, classes)

    def keras(self, head="softmax"):
        relu = "relu" if self.cap is None else layers.ReLU(max_value=self.cap)
        model = keras.Sequential(
            [
                keras.Input(self.shape),
                layers.Flatten(),
                layers.Dense(len(self.b1), activation=relu),
                layers.Dense(len(self.b2), activation=head),
            ]
        )
        model.set_weights([self.w1, self.b1, self.w2, self.b2])
        return model

    def score(self, x, target):
        h = x.reshape(-1).astype("float64") @ self.w1 + self.b1
        return (np.clip(h, 0, self.cap) @ self.w2 + self.b2)[target]

    def gradient(self, x, target, rule="vanilla"):
        h = x.reshape(-1).astype("float64") @ self.w1 + self.b1
        backward = np.zeros_like(h)
        for unit in range(len(h)):
            arriving = self.w2[unit, target]
            gate_open = h[unit] > 0 and (self.cap is None or h[unit] < self.cap)
            if rule == "vanilla":
                backward[unit] = arriving if gate_open else 0
            elif rule == "guided":
                backward[unit] = arriving if gate_open and arriving > 0 else 0
            elif rule == "rectified":
                backward[unit] = arriving if arriving > 0 else 0
        return (self.w1 @ backward).reshape(self.shape)


def smoothgrad(net, x, target, noises, rule="vanilla"):
    total = np.zeros(x.shape)
    for noise in noises:
        total += net.gradient(x + noise, target, rule)
    return total / len(noises)


def integrated_gradients(net, x, target, baseline, steps=20_000):
    """The integral as a midpoint sum over very many steps."""
    total = np.zeros(x.shape)
    for k in range(steps):
        total += net.gradient(baseline + (k + 0.5) / steps * (x - baseline), target)
    return (x - baseline) * total / steps


def gradient_shap(net, x, target, background, index, alpha):
    """Mean and standard error over the given points."""
    terms = []
    for j, a in zip(index, alpha, strict=True):
        baseline = background[j].astype("float64")
        terms.append((x - baseline) * net.gradient(baseline + a * (x - baseline), target))
    return np.mean(terms, axis=0), np.std(terms, axis=0, ddof=1) / np.sqrt(len(terms))


def lime(score, image, segments, hidden, present):
    """Weights and weighted R2 of the surrogate around one image."""
    labels, kernel = [], []
    for row in present:
        perturbed = np.array(image, "float64")
        for segment, on in enumerate(row):
            if not on:
                perturbed[segments == segment] = hidden[segments == segment]
        labels.append(score(perturbed))
        distance = 1 - row.sum() / (np.sqrt(row.sum()) * np.sqrt(len(row))) if row.any() else 1.0
        kernel.append(np.sqrt(np.exp(-(distance**2) / 0.25**2)))
    return ridge(present, np.array(labels), np.array(kernel))


def ridge(present, y, w):
    """Weights and weighted R2 of a ridge regression with an unpenalized intercept, by its normal equations."""
    design = present - np.average(present, axis=0, weights=w)
    centred = y - np.average(y, weights=w)
    gram = design.T @ (w[:, None] * design) + np.eye(present.shape[1])
    weights = np.linalg.solve(gram, design.T @ (w * centred))
    residual = centred - design @ weights
    r2 = 1 - (w * residual**2).sum() / (w * centred**2).sum()
    return weights, r2


def area_under_exchange(score, image, other, values, counts):
    """Area under the score while the pixels of highest value are taken from the other image, one after the other."""
    order = sorted(np.ndindex(values.shape[:2]), key=lambda place: -values[place].sum())
    scores = []
    for count in counts:
        mixed = np.array(image, "float64")
        for place in order[:count]:
            mixed[place] = other[place]
        scores.append(score(mixed))
    widths = np.diff(counts) / counts[-1]
    return sum(w * (a + b) / 2 for w, a, b in zip(widths, scores, scores[1:], strict=False))


class Cnn:
    """One valid convolution with ReLU, flattened into a dense head: once written out, once as a Keras model."""

    def __init__(self, shape=(7, 6, 2), kernel=2, channels=4, classes=3, seed=0):
        random = np.random.default_rng(seed)
        self.shape, self.kernel = shape, random.normal(0, 0.7, (kernel, kernel, shape[-1], channels))
        self.bias = random.normal(0.3, 0.3, channels)
        self.map_shape = (shape[0] - kernel + 1, shape[1] - kernel + 1, channels)
        self.head = random.normal(0, 0.5, (*self.map_shape, classes))

    def layers(self):
        convolution = layers.Conv2D(len(self.bias), len(self.kernel), activation="relu", name="convolution")
        return [convolution, layers.Flatten(), layers.Dense(self.head.shape[-1], "softmax", name="head")]

    def set_weights(self, model):
        dense = self.head.reshape(-1, self.head.shape[-1])
        model.set_weights([self.kernel, self.bias, dense, np.zeros(dense.shape[1])])
        return model

    def maps(self, image):
        found = np.zeros(self.map_shape)
        size = len(self.kernel)
        for i, j, k in np.ndindex(self.map_shape):
            found[i, j, k] = max((image[i : i + size, j : j + size] * self.kernel[..., k]).sum() + self.bias[k], 0)
        return found

    def score(self, image, target):
        return (self.maps(image) * self.head[..., target]).sum()


def grad_cam(maps, gradients):
    """Each channel of (height, width, channels) times its mean gradient."""
    total = np.zeros(maps.shape[:2])
    for k in range(maps.shape[2]):
        total += gradients[..., k].mean() * maps[..., k]
    return np.maximum(total, 0)


def grad_cam_plus_plus(maps, gradients, normalised=False):
    """The paper's alphas, each written out; its authors' own code divides them by their sum."""
    total = np.zeros(maps.shape[:2])
    for k in range(maps.shape[2]):
        weight, alphas = 0.0, 0.0
        for i, j in np.ndindex(maps.shape[:2]):
            g = gradients[i, j, k]
            if g != 0:
                alpha = g**2 / (2 * g**2 + maps[..., k].sum() * g**3)
                weight += alpha * max(g, 0)
                alphas += alpha
        total += weight / (alphas if normalised else 1) * maps[..., k]
    return np.maximum(total, 0)


def enlarged(cells, shape):
    """Bilinear interpolation between the centres of the cells; beyond the outer centres their own values."""
    found = np.zeros(shape)
    for place in np.ndindex(shape):
        for cell in np.ndindex(cells.shape):
            weight = 1.0
            for p, c, side, count in zip(place, cell, shape, cells.shape, strict=True):
                centre = min(max((p + 0.5) * count / side - 0.5, 0), count - 1)
                weight *= max(1 - abs(centre - c), 0)
            found[place] += weight * cells[cell]
    return found


def occlusion(score, image, hidden, window, stride):
    """The mean fall of the score over the windows that cover a pixel of (height, width)."""
    starts = [
        sorted({*range(0, side - w, s), side - w}) for side, w, s in zip(image.shape, window, stride, strict=False)
    ]
    falls = [[[] for _ in range(image.shape[1])] for _ in range(image.shape[0])]
    for top in starts[0]:
        for left in starts[1]:
            occluded = np.array(image, "float64")
            occluded[top : top + window[0], left : left + window[1]] = hidden[
                top : top + window[0], left : left + window[1]
            ]
            fall = score(image) - score(occluded)
            for i in range(top, top + window[0]):
                for j in range(left, left + window[1]):
                    falls[i][j].append(fall)
    return np.array([[np.mean(pixel) for pixel in row] for row in falls])


def rise(score, image, hidden, grids, shifts):
    """Weighted means of the score under soft masks less its mean, and their standard errors, for every pixel.

    The error is that of the ratio of means, by the delta method.
    """
    height, width = image.shape[:2]
    masks, scores = [], []
    for grid, shift in zip(grids, shifts, strict=True):
        mask = np.zeros((height, width))
        for i, j in np.ndindex(height, width):
            y, x = i * (grid.shape[0] - 2) / height + shift[0], j * (grid.shape[1] - 2) / width + shift[1]
            a, b = int(y), int(x)
            for node, share in (
                ((a, b), (1 - y + a) * (1 - x + b)),
                ((a + 1, b), (y - a) * (1 - x + b)),
                ((a, b + 1), (1 - y + a) * (x - b)),
                ((a + 1, b + 1), (y - a) * (x - b)),
            ):
                mask[i, j] += share * grid[node]
        masks.append(mask)
        scores.append(score(mask[..., None] * image + (1 - mask[..., None]) * hidden))
    masks, scores = np.array(masks), np.array(scores) - np.mean(scores)
    values, errors = np.zeros((height, width)), np.zeros((height, width))
    for i, j in np.ndindex(height, width):
        m = masks[:, i, j]
        values[i, j] = (m * scores).sum() / m.sum()
        terms = [m[n] * (scores[n] - values[i, j]) / m.mean() - scores[n] for n in range(len(m))]
        errors[i, j] = np.sqrt(sum(term**2 for term in terms)) / len(m)
    return values, errors


def ridge_errors(present, weight, residual):
    """Standard errors of the ridge surrogate, each sum written out."""
    n, p = present.shape
    mean = [sum(weight[i] * present[i, j] for i in range(n)) / sum(weight) for j in range(p)]
    gram = np.array(
        [
            [sum(weight[i] * (present[i, j] - mean[j]) * (present[i, k] - mean[k]) for i in range(n)) for k in range(p)]
            for j in range(p)
        ]
    )
    inverse = np.linalg.inv(gram + np.eye(p))
    spread = sum(weight[i] * residual[i] ** 2 for i in range(n)) / (n - p)
    return np.sqrt(np.diag(spread * inverse @ gram @ inverse.T))


def average_precision(values, inside):
    """Mean precision over the pixels inside, of the threshold at each one's own value."""
    precisions = []
    for v in values[inside]:
        marked = values >= v
        precisions.append((inside & marked).sum() / marked.sum())
    return np.mean(precisions)
