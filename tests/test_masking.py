"""Occlusion and RISE: against the definitions written out, closed forms, and every option against itself."""

import dataclasses

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

import keras_explain as kx
from keras_explain.verdicts import verdicts
from tests import reference
from tests.conftest import linear_model, small_cnn

NET = reference.Mlp(shape=(6, 7, 2))
IMAGES = np.random.default_rng(5).normal(0.3, 1, (2, 6, 7, 2)).astype("float32")
TARGETS = np.array([[0, 2], [1, 0]])


def hidden(image, hide):
    if hide == "blur":
        return np.stack([gaussian_filter(image[..., c], (0.6, 0.7)) for c in range(2)], axis=-1)
    return np.zeros_like(image) + (image.mean(axis=(0, 1)) if hide == "mean" else hide)


@pytest.mark.parametrize("hide", ["blur", "mean", 0.3])
@pytest.mark.parametrize(("window", "stride"), [((2, 2), (1, 1)), ((3, 2), (2, 2)), ((6, 7), (1, 1)), ((4, 4), (3, 4))])
def test_occlusion_is_the_definition_written_out(window, stride, hide):
    found = kx.explain(NET.keras(), IMAGES, kx.Occlusion(window, stride, hide), targets=TARGETS)
    for values, i, target, score in zip(found.values, found.rows, found.targets, found.score, strict=True):
        image = IMAGES[i].astype("float64")
        expected = reference.occlusion(
            lambda x, target=target: NET.score(x, target), image, hidden(image, hide), window, stride
        )
        np.testing.assert_allclose(values.sum(axis=-1), expected, rtol=1e-3, atol=1e-4)
        np.testing.assert_array_equal(values[..., 0], values[..., 1])
        assert score == pytest.approx(NET.score(image, target), rel=1e-4)


def test_hiding_one_pixel_at_a_time_sums_to_the_change_of_a_linear_score(random):
    weights = random.normal(0, 1, (20, 3))
    image = random.random((1, 4, 5, 1), "float32")
    model = reference.Mlp(shape=(4, 5, 1)).keras()
    model = linear_on_images(weights, (4, 5, 1))
    found = kx.explain(model, image, kx.Occlusion(1, 1, hide=0.25), targets="all")
    for k in range(3):
        expected = weights[:, k].reshape(4, 5) * (image[0, ..., 0] - 0.25)
        np.testing.assert_allclose(found.values[k, ..., 0], expected, rtol=1e-3, atol=1e-5)


def linear_on_images(weights, shape):
    import keras

    model = keras.Sequential([keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(3, "softmax")])
    model.set_weights([weights, np.zeros(3)])
    return model


def test_windows_move_by_half_of_themselves_rounded_down():
    found = kx.explain(small_cnn(size=41), np.random.default_rng(0).random((1, 41, 41, 1)), "occlusion", targets=0)
    assert found.settings == {"window": [5, 5], "stride": [2, 2], "hide": "blur"}


def test_windows_are_an_eighth_of_each_side_and_overlap_by_half():
    found = kx.explain(small_cnn(size=33), np.random.default_rng(0).random((1, 33, 33, 1)), "occlusion", targets=0)
    assert found.settings == {"window": [4, 4], "stride": [2, 2], "hide": "blur"}


@pytest.mark.parametrize("hide", ["blur", 0.3])
@pytest.mark.parametrize(("cells", "probability"), [(2, 0.5), (3, 0.2), (7, 0.5)])
def test_rise_is_the_definition_written_out(cells, probability, hide):
    method = kx.Rise(80, cells, probability, hide, seed=4)
    found = kx.explain(NET.keras(), IMAGES, method, targets=TARGETS)
    random = np.random.default_rng(4)
    grids = random.random((80, cells + 2, cells + 2)) < probability
    shifts = random.random((80, 2), "float32")
    for values, error, i, target in zip(found.values, found.standard_error, found.rows, found.targets, strict=True):
        image = IMAGES[i].astype("float64")
        expected, spread = reference.rise(
            lambda x, target=target: NET.score(x, target), image, hidden(image, hide), grids, shifts
        )
        np.testing.assert_allclose(values.sum(axis=-1), expected, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(error.sum(axis=-1), spread, rtol=1e-3, atol=1e-4)
        np.testing.assert_array_equal(values[..., 0], values[..., 1])


def test_the_standard_error_of_rise_is_that_of_its_seeds():
    model, image = NET.keras(), IMAGES[:1]
    runs = [kx.explain(model, image, kx.Rise(400, 3, seed=seed), targets=0) for seed in range(12)]
    spread = np.std([run.values for run in runs], axis=0, ddof=1).mean()
    assert 0.7 < spread / runs[0].standard_error.mean() < 1.4
    assert np.abs(runs[0].values).max() > 5 * spread


def test_the_error_of_rise_is_told_of_pixels_and_not_of_a_sum_it_does_not_promise():
    model, samples = NET.keras(), kx.Samples(IMAGES[:1], [0])
    sure, unsure = (kx.explain(model, samples, kx.Rise(n, 3)) for n in (2000, 6))
    with pytest.warns(kx.ExplanationWarning, match="Completeness measures nothing of these rise maps"):
        assert not kx.metrics.measure(model, samples, sure, ["completeness"]).measures
    for found, words, good in ((sure, "stands out of noise", True), (unsure, "hardly differs from noise", False)):
        (verdict,) = verdicts(found, 0)
        beyond = (np.abs(found.values[0]) > 2 * found.standard_error[0]).mean()
        assert verdict == (f"{words}: {beyond:.0%} of pixels", good)


def test_an_empty_map_is_called_empty():
    weights = np.zeros((64, 3))
    found = kx.explain(linear_on_images(weights, (8, 8, 1)), np.ones((1, 8, 8, 1)), "occlusion", targets=0)
    assert verdicts(found, 0) == [("empty: nothing differs from 0", False)]


def test_rise_finds_the_pixels_that_a_linear_score_uses():
    weights = np.zeros((64, 3))
    weights[[9, 10, 17, 18], 1] = 1.0
    image = np.ones((1, 8, 8, 1), "float32")
    found = kx.explain(linear_on_images(weights, (8, 8, 1)), image, kx.Rise(3000, 8, hide=0.0), targets=1)
    flat = found.values[0, ..., 0]
    # E[sum of m | m(p) = 1] - E[sum of m] of independent nodes is the variance of a node over its mean, 1/2, times how
    # much the pixels share their nodes.
    assert set(np.argsort(flat.ravel())[-4:]) == {9, 10, 17, 18}
    far = flat[4:, 4:]
    assert np.abs(far).max() < 6 * found.standard_error[0, 4:, 4:].max()


def test_a_volume_is_hidden_along_all_axes(random):
    image = random.random((1, 4, 5, 6, 1), "float32")
    weights = random.normal(0, 1, (120, 3))
    model = linear_on_images(weights, (4, 5, 6, 1))
    found = kx.explain(model, image, kx.Occlusion(1, 1, hide=0.0), targets=2)
    np.testing.assert_allclose(found.values[0].ravel(), weights[:, 2] * image.ravel(), rtol=1e-3, atol=1e-5)
    soft = kx.explain(model, image, kx.Rise(60, 2, hide=0.0), targets=2)
    assert np.abs(soft.values).max() > 0.1


@pytest.mark.parametrize(
    ("method", "change"),
    [
        (kx.Occlusion(2, 1), {"window": 3}),
        (kx.Occlusion(2, 1), {"stride": 2}),
        (kx.Occlusion(2, 1), {"hide": 0.0}),
        (kx.Rise(30, 3), {"samples": 31}),
        (kx.Rise(30, 3), {"cells": 4}),
        (kx.Rise(30, 3), {"probability": 0.3}),
        (kx.Rise(30, 3), {"hide": "mean"}),
        (kx.Rise(30, 3), {"seed": 1}),
    ],
)
def test_every_option_changes_a_number_and_the_same_seed_gives_the_same_bits(method, change):
    model = NET.keras()
    first, again, other = (
        kx.explain(model, IMAGES, m, targets=0).values for m in (method, method, dataclasses.replace(method, **change))
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kx.Occlusion(window=0), "window must be a whole number, at least 1"),
        (lambda: kx.Occlusion(stride=(1, 0)), "stride must be a whole number, at least 1"),
        (lambda: kx.Occlusion(hide="black"), "hide must be 'mean', 'blur' or a number; got 'black'"),
        (
            lambda: kx.explain(NET.keras(), IMAGES, kx.Occlusion(7), 0),
            r"window \(7, 7\) is larger than the image \(6, 7\)",
        ),
        (lambda: kx.explain(NET.keras(), IMAGES, kx.Occlusion(2, 3), 0), "some pixels are never hidden"),
        (lambda: kx.explain(NET.keras(), IMAGES, kx.Occlusion((2, 2, 2)), 0), "3 numbers for images with 2 axes"),
        (lambda: kx.Rise(samples=1), "samples must be a whole number, at least 2"),
        (lambda: kx.Rise(cells=0), "cells must be a whole number, at least 1"),
        (lambda: kx.Rise(probability=1.0), "probability must lie between 0 and 1; got 1.0"),
        (lambda: kx.Rise(hide="black"), "hide must be"),
        (lambda: kx.Occlusion(hide=None), "hide must be 'mean', 'blur' or a number; got None"),
        (lambda: kx.Occlusion(hide=float("nan")), "hide must be"),
        (lambda: kx.explain(NET.keras(), IMAGES, kx.Rise(2, 6, 0.01), 0), "In none of 2 samples a mask shows some"),
        (lambda: kx.explain(linear_model(np.eye(3)), np.ones((1, 3)), "rise", 0), "there are no positions to hide"),
        (lambda: kx.explain(linear_model(np.eye(3)), np.ones((1, 3)), "occlusion", 0), "no positions to hide"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(kx.InputError, match=message):
        call()
