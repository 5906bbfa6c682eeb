"""Quality numbers: a perfect and an inverted case, and what must not change them."""

import numpy as np
import pytest

import keras_explain as kx
from keras_explain.metrics import relevance_mass
from tests.conftest import small_cnn

ROI = np.zeros((1, 4, 4), bool)
ROI[0, :2, :2] = True
INSIDE = ROI[..., None].astype(float)


def test_relevance_mass_is_one_inside_and_zero_outside():
    np.testing.assert_allclose(relevance_mass(INSIDE, ROI), 1)
    np.testing.assert_allclose(relevance_mass(1 - INSIDE, ROI), 0)
    np.testing.assert_allclose(relevance_mass(np.ones_like(INSIDE), ROI), ROI.mean())


def test_relevance_mass_counts_positive_channel_sums_only():
    values = np.concatenate([INSIDE * 3, -INSIDE + (1 - INSIDE) * -5], axis=-1)
    np.testing.assert_allclose(relevance_mass(values, ROI), 1)
    np.testing.assert_allclose(relevance_mass(values * 7, ROI), 1)
    assert np.isnan(relevance_mass(-INSIDE, ROI)).all()
    assert np.isnan(relevance_mass(INSIDE, np.zeros_like(ROI))).all()


def test_evaluate_averages_what_the_method_gives():
    images = np.random.default_rng(0).random((2, 8, 8, 1), "float32")
    samples = kx.Samples(images, [[0, 1]] * 2, background=images)
    model = kx.Scorer(small_cnn())
    roi = np.zeros((2, 8, 8), bool)
    roi[0, :4] = True
    found = kx.explain(model, samples, kx.GradientShap(samples=9))
    numbers = kx.metrics.evaluate(model, samples, found, roi)
    assert numbers.keys() == {
        "completeness_error",
        "relative_completeness_error",
        "mean_standard_error",
        "relevance_mass",
    }
    assert numbers["completeness_error"] == pytest.approx(found.completeness_error.mean())
    assert numbers["relative_completeness_error"] == pytest.approx(found.relative_completeness_error.mean())
    assert numbers["mean_standard_error"] == pytest.approx(found.standard_error.mean())
    # The second sample has no finding and does not count.
    assert numbers["relevance_mass"] == pytest.approx(relevance_mass(found.values[:2], roi[[0, 0]]).mean())
    lime = kx.explain(model, samples, kx.Lime(12, lambda x: np.arange(64).reshape(8, 8) // 16))
    numbers = kx.metrics.evaluate(model, samples, lime)
    assert numbers == {
        "r2": pytest.approx(lime.details["r2"].mean()),
        "effect": pytest.approx(lime.details["effect"].mean()),
    }
    assert kx.metrics.evaluate(model, samples, kx.explain(model, samples, "vanilla")) == {}
    with pytest.raises(kx.InputError, match=r"roi has shape \(2, 4, 4\)"):
        kx.metrics.evaluate(model, samples, found, roi[:, :4, :4])
