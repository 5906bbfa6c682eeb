"""Quality numbers: a perfect and an inverted case, what must not change them, and what others say of the same maps."""

import dataclasses
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from scipy import stats

import keras_explain as kx
from keras_explain.callbacks import ExplanationCallback
from keras_explain.explainers.lime import balanced_subsets, kernel
from keras_explain.explainers.masking import blurred
from keras_explain.metrics import (
    Context,
    Faithfulness,
    Randomization,
    Sensitivity,
    Stability,
    auprc,
    border_share,
    breast,
    coefficients_stability,
    otsu_iou,
    pointing_game,
    relevance_mass,
    relevance_rank,
    spearman,
    ssim,
    variables_stability,
)
from keras_explain.metrics.randomization import own_weights, stages_of
from tests import reference
from tests.conftest import small_cnn

LOCALIZATION = (pointing_game, relevance_mass, relevance_rank, auprc, otsu_iou)
ROI = np.zeros((1, 6, 6), bool)
ROI[0, 1:4, 1:4] = True
INSIDE = ROI[..., None].astype(float)
AREA = ROI.mean()


@pytest.fixture
def maps(random):
    return random.normal(size=(4, 6, 6, 2)), random.random((4, 6, 6)) < 0.3


# Localization


@pytest.mark.parametrize("metric", LOCALIZATION)
def test_localization_is_one_where_the_map_is_the_region(metric):
    np.testing.assert_allclose(metric(INSIDE, ROI), 1)


@pytest.mark.parametrize("metric", [pointing_game, relevance_mass, relevance_rank])
def test_localization_is_zero_where_the_map_is_everything_else(metric):
    np.testing.assert_allclose(metric(1 - INSIDE, ROI), 0)


def test_otsu_iou_is_zero_for_another_place_and_counts_what_is_enclosed():
    np.testing.assert_allclose(otsu_iou(np.roll(INSIDE, 3, axis=1) * (1 - INSIDE), ROI), 0)
    np.testing.assert_allclose(otsu_iou(1 - INSIDE, ROI), AREA)  # all around the region: its hole is filled


def test_auprc_of_the_inverted_map_is_that_of_finding_the_region_last():
    outside_first = -INSIDE + np.linspace(0, 0.5, 36).reshape(1, 6, 6, 1)  # no two pixels alike
    # The j-th pixel of the region is found when all 27 others are marked already.
    np.testing.assert_allclose(auprc(outside_first, ROI), np.mean([j / (27 + j) for j in range(1, 10)]))


@pytest.mark.parametrize("metric", [pointing_game, relevance_mass, relevance_rank, auprc])
def test_a_constant_map_scores_by_chance(metric):
    np.testing.assert_allclose(metric(np.ones_like(INSIDE), ROI), AREA)


@pytest.mark.parametrize("metric", LOCALIZATION)
def test_an_empty_region_has_no_number_and_the_others_keep_theirs(metric):
    both = np.concatenate([INSIDE, INSIDE]), np.concatenate([np.zeros_like(ROI), ROI])
    np.testing.assert_allclose(metric(*both), [np.nan, 1])
    with pytest.raises(kx.InputError, match=r"roi has shape \(1, 3, 6\)"):
        metric(INSIDE, ROI[:, :3])


@pytest.mark.parametrize("metric", LOCALIZATION)
def test_localization_does_not_depend_on_the_scale(metric, maps):
    values, roi = maps
    np.testing.assert_allclose(metric(7.5 * values, roi), metric(values, roi), rtol=1e-12)
    assert (np.abs(metric(-values, roi) - metric(values, roi)) > 1e-3).any()  # but on the sign


@pytest.mark.parametrize("metric", [pointing_game, relevance_rank, auprc])
def test_rank_metrics_depend_on_the_order_alone(metric, maps):
    values, roi = maps
    values = values[..., :1]
    np.testing.assert_array_equal(metric(np.exp(values), roi), metric(values, roi))


def test_localization_in_small_numbers():
    roi = np.array([[[True, False, True, False]]])
    values = np.array([[[[4.0, -1.0], [2.0, 0.0], [1.0, 0.0], [-5.0, 1.0]]]])  # channel sums 3, 2, 1, -4
    assert pointing_game(values, roi) == 1
    assert relevance_mass(values, roi) == pytest.approx(4 / 6)
    assert relevance_rank(values, roi) == 0.5
    assert auprc(values, roi) == pytest.approx((1 + 2 / 3) / 2)


def test_pixels_of_equal_value_share(random):
    """As the mean over all orders that would be just as right."""
    roi = np.array([[[True, False, True, False, False]]])
    values = np.array([[[[2.0], [2.0], [1.0], [1.0], [1.0]]]])
    broken = np.repeat(values, 20_000, axis=0) + 1e-6 * random.random((20_000, 1, 5, 1))
    regions = np.repeat(roi, 20_000, axis=0)
    for metric in (pointing_game, relevance_rank):
        assert metric(values, roi) == pytest.approx(metric(broken, regions).mean(), abs=0.01)
    k_one = np.array([[[False, False, True, False, False]]])
    assert relevance_rank(values[:, :, 2:], k_one[:, :, 2:]) == pytest.approx(1 / 3)


def test_auprc_is_average_precision_written_out(maps):
    values, roi = maps
    expected = [reference.average_precision(v.sum(-1), r) for v, r in zip(values, roi, strict=True)]
    np.testing.assert_allclose(auprc(values, roi), expected)


def test_otsu_fills_holes_and_ignores_negative_values():
    ring = INSIDE.copy()
    ring[0, 2, 2] = 0
    np.testing.assert_allclose(otsu_iou(ring, ROI), 1)
    np.testing.assert_allclose(otsu_iou(ring - 5 * (1 - INSIDE), ROI), 1)
    half = INSIDE.copy()
    half[0, 3] = 0
    np.testing.assert_allclose(otsu_iou(half, ROI), 6 / 9)


# Border


def test_border_share_is_what_lies_outside():
    np.testing.assert_allclose(border_share(INSIDE, ROI), 0)
    np.testing.assert_allclose(border_share(1 - INSIDE, ROI), 1)
    np.testing.assert_allclose(border_share(np.ones_like(INSIDE), ROI), 1 - AREA)
    np.testing.assert_allclose(border_share(-3 * np.ones_like(INSIDE), ROI), 1 - AREA)  # signs do not cancel
    assert np.isnan(border_share(INSIDE, np.ones_like(ROI))).all()
    assert np.isnan(border_share(0 * INSIDE, ROI)).all()
    with pytest.raises(kx.InputError, match="foreground has shape"):
        border_share(INSIDE, ROI[:, :3])


def test_the_breast_is_the_largest_bright_part_without_its_holes():
    image = np.zeros((20, 20, 1))
    image[2:18, :9] = 0.5
    image[5:8, 3:6] = 0.0  # a dark cyst inside
    image[1:5, 14:18] = 1.0  # a label on the film
    image[:, 19] = 0.04  # the film is not quite black
    expected = np.zeros((20, 20), bool)
    expected[2:18, :9] = True
    np.testing.assert_array_equal(breast(image), expected)
    np.testing.assert_array_equal(breast(3 * image - 7), expected)
    assert breast(np.full((4, 4, 1), 0.3)).all()


# Similarity


def test_spearman_is_that_of_scipy_and_depends_on_the_order_alone(random):
    first, second = random.normal(size=(2, 3, 5, 5, 2))
    first = first.round(1)  # with ties
    sums = [values.sum(-1).reshape(3, -1) for values in (first, second)]
    expected = [stats.spearmanr(v, w).statistic for v, w in zip(*sums, strict=True)]
    np.testing.assert_allclose(spearman(first, second), expected)
    absolute = [stats.spearmanr(abs(v), abs(w)).statistic for v, w in zip(*sums, strict=True)]
    np.testing.assert_allclose(spearman(first, second, absolute=True), absolute)
    np.testing.assert_allclose(spearman(4 * first, second), spearman(first, second))
    np.testing.assert_allclose(spearman(first, first), 1)
    np.testing.assert_allclose(spearman(first, -first), -1)
    np.testing.assert_allclose(spearman(first, -first, absolute=True), 1)
    assert np.isnan(spearman(np.ones_like(first), second)).all()


def test_ssim_is_one_for_the_same_picture_and_low_for_another(random):
    first, second = random.normal(size=(2, 3, 24, 24, 1))
    np.testing.assert_allclose(ssim(first, -4 * first), 1)
    assert (np.abs(ssim(first, second)) < 0.25).all()
    ramp = np.broadcast_to(np.linspace(0, 1, 24)[None, :, None, None], (1, 24, 24, 1))
    assert ssim(ramp, 1 - ramp)[0] < -0.2
    assert np.isnan(ssim(first[:, :10], second[:, :10])).all()
    with pytest.raises(kx.InputError, match="must have one shape"):
        ssim(first, second[:, :12])


def attribution(values, method="mine", targets=None, rows=None, **more):
    n = len(values)
    rows = range(n) if rows is None else rows
    return kx.Attribution(method, values, [0] * n if targets is None else targets, rows, score=[1.0] * n, **more)


def context(samples, **given):
    return Context(kx.Scorer(small_cnn()), samples, **given)


def test_agreement_is_the_mean_over_the_other_methods(random):
    images = random.random((2, 8, 8, 1))
    one, two, three = (random.normal(size=images.shape) for _ in range(3))
    samples = kx.Samples(images, [0, 0])
    others = [
        attribution(two),
        attribution(-one),
        attribution(three, targets=[1, 1]),
    ]  # the last is about another class
    found = kx.metrics.Agreement().measure(attribution(one), context(samples, others=others))
    np.testing.assert_allclose(found["agreement"], (spearman(one, two, absolute=True) + 1) / 2)
    others.append(attribution(np.ones_like(one)))  # a constant map has no order and does not count
    again = kx.metrics.Agreement().measure(attribution(one), context(samples, others=others))
    np.testing.assert_allclose(again["agreement"], found["agreement"])
    assert kx.metrics.Agreement().measure(attribution(one), context(samples)) == {}


def test_drift_follows_the_image_and_the_class_and_not_the_place(random):
    images, values = random.random((3, 8, 8, 1)), random.normal(size=(3, 8, 8, 1))
    then, now = kx.Samples(images[[0, 1]], [0, 0]), kx.Samples(images[[1, 0, 2]], [0, 0, 0])
    before = (then, attribution(values[[0, 1]]))
    found = kx.metrics.Drift().measure(attribution(values[[1, 2, 0]]), context(now, before=before))["drift"]
    np.testing.assert_allclose(found, [0, 1 - spearman(values[[2]], values[[0]])[0], np.nan], atol=1e-12)
    inverted = kx.metrics.Drift().measure(attribution(-values[[1]]), context(now[[0]], before=before))["drift"]
    np.testing.assert_allclose(inverted, 2)
    other_class = attribution(values[[1]], targets=[1])
    assert np.isnan(kx.metrics.Drift().measure(other_class, context(now[[0]], before=before))["drift"]).all()
    assert kx.metrics.Drift().measure(attribution(values), context(now)) == {}


# Faithfulness


def line_model(weights):
    """The logit of class 0 is the weighted sum of the pixels; class 1 has logit 0."""
    weights = np.asarray(weights, "float32")
    model = keras.Sequential([keras.Input((*weights.shape, 1)), layers.Flatten(), layers.Dense(2)])
    model.compile(loss=keras.losses.CategoricalCrossentropy(from_logits=True))
    model.set_weights([np.stack([weights.ravel(), 0 * weights.ravel()], axis=1), np.zeros(2)])
    return model


def test_deletion_and_insertion_in_closed_form():
    model = line_model([[4.0, 3.0, 2.0, 1.0]])
    samples = kx.Samples(np.ones((1, 1, 4, 1)), [0])
    perfect = attribution(np.array([[[[4.0], [3.0], [2.0], [1.0]]]]))
    metric = Faithfulness(steps=4, baseline=0.0)
    right = kx.metrics.evaluate(model, samples, perfect, [metric])
    assert right["deletion_logit"] == pytest.approx((5 + 6 + 3 + 1) / 4)  # 10 6 3 1 0
    assert right["insertion_logit"] == pytest.approx((2 + 5.5 + 8 + 9.5) / 4)  # 0 4 7 9 10
    probability = 1 / (1 + np.exp(-np.array([10, 6, 3, 1, 0])))
    assert right["deletion"] == pytest.approx(np.trapezoid(probability) / 4, abs=1e-6)
    inverted = kx.metrics.evaluate(model, samples, attribution(-perfect.values), [metric])
    assert inverted["deletion_logit"] == pytest.approx((9.5 + 8 + 5.5 + 2) / 4)  # 10 9 7 4 0
    assert inverted["insertion_logit"] == pytest.approx((0.5 + 2 + 4.5 + 8) / 4)  # 0 1 3 6 10
    scaled = kx.metrics.evaluate(model, samples, attribution(1e-3 * perfect.values), [metric])
    assert scaled == right


@pytest.mark.parametrize(("baseline", "steps"), [(0.25, 5), ("mean", 7), ("blur", 16)])
def test_faithfulness_is_its_twin(random, baseline, steps):
    net = reference.Mlp((5, 4, 2))
    images = random.random((2, 5, 4, 2)).astype("float32")
    samples = kx.Samples(images, [[0, 2]] * 2)
    values = random.normal(size=(4, 5, 4, 2)).astype("float32")
    found = attribution(values, targets=[0, 2, 0, 2], rows=[0, 0, 1, 1])
    scorer = kx.Scorer(net.keras())
    measured = kx.metrics.measure(scorer, samples, found, [Faithfulness(steps, baseline)]).measures
    counts = np.rint(np.linspace(0, 20, steps + 1)).astype(int)
    for r, (row, target) in enumerate(zip(found.rows, found.targets, strict=True)):
        image = images[row].astype("float64")
        other = {"mean": np.broadcast_to(image.mean(axis=(0, 1)), image.shape), "blur": blurred(image)}.get(
            baseline, np.full(image.shape, baseline)
        )

        def probability(x, target=target):
            z = np.array([net.score(x, k) for k in range(3)])
            return (np.exp(z) / np.exp(z).sum())[target]

        for name, start, end in (("deletion", image, other), ("insertion", other, image)):
            logit = reference.area_under_exchange(
                lambda x, t=target: net.score(x, t), start, end, values[r].astype("float64"), counts
            )
            assert measured[f"{name}_logit"][r] == pytest.approx(logit, rel=1e-4, abs=1e-5)
            area = reference.area_under_exchange(probability, start, end, values[r].astype("float64"), counts)
            assert measured[name][r] == pytest.approx(area, rel=1e-4, abs=1e-5)
    assert scorer.evaluations == 4 * 2 * (steps + 1)


def test_pixels_of_equal_value_are_exchanged_in_random_order():
    weights = np.array([[8.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    samples = kx.Samples(np.ones((1, 1, 6, 1)), [0])
    constant = attribution(np.ones((1, 1, 6, 1)))
    areas = [
        kx.metrics.evaluate(line_model(weights), samples, constant, [Faithfulness(6, 0.0, seed=s)])["deletion_logit"]
        for s in range(40)
    ]
    assert np.mean(areas) == pytest.approx(4, abs=0.8)
    assert len(set(np.round(areas, 3))) > 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Faithfulness(steps=0), "steps must be a whole number, at least 1"),
        (lambda: Faithfulness(baseline="black"), "baseline must be 'blur', 'mean' or a number"),
        (lambda: Randomization(mode="all"), "mode must be 'cascading' or 'independent'"),
        (lambda: Randomization(stages=0), "stages must be a whole number, at least 1; got 0"),
        (lambda: Randomization(stages=2.5), "stages must be a whole number, at least 1; got 2.5"),
        (lambda: Randomization(seed=-1), "seed must be a whole number, at least 0; got -1"),
        (lambda: Randomization(limit=-1), "limit must be positive or None; got -1"),
        (lambda: Faithfulness(baseline=None), "baseline must be 'blur', 'mean' or a number; got None"),
        (lambda: Faithfulness(baseline=np.nan), "baseline must be 'blur', 'mean' or a number; got nan"),
        (lambda: Sensitivity(radius=np.nan), "radius must be positive; got nan"),
        (lambda: Sensitivity(samples=0), "samples must be a whole number, at least 1"),
        (lambda: Sensitivity(radius=0), "radius must be positive; got 0"),
        (lambda: Stability(repeats=1), "repeats must be a whole number, at least 2"),
        (lambda: kx.metrics.resolve("fidelity"), "There is no metric 'fidelity'; known are completeness"),
        (lambda: kx.metrics.resolve(Faithfulness), "A metric is a name or an object"),
    ],
)
def test_options_that_cannot_be_are_refused(make, message):
    with pytest.raises(kx.InputError, match=message):
        make()


# Randomization


def trained_cnn():
    """Fitted to say where a bright patch is, so that its layers carry something to be lost."""
    random = np.random.default_rng(0)
    labels = np.arange(240) % 3
    images = random.random((240, 16, 16, 1)).astype("float32") * 0.3
    for image, label in zip(images, labels, strict=True):
        row, column = 2 + 4 * label, random.integers(2, 11)
        image[row : row + 3, column : column + 3] += 0.7
    model = small_cnn(size=16, normalise=True)
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(images, labels, epochs=12, batch_size=16, verbose=0)
    assert history.history["accuracy"][-1] > 0.95
    return model, kx.Samples(images[:6], labels[:6], background=images[100:110])


@pytest.fixture(scope="module")
def trained():
    return trained_cnn()


class Picture:
    """A method that shows the image and not the model."""

    def explain(self, scorer, samples):
        values = samples.images - samples.images.mean()
        return kx.Attribution("picture", values, samples.targets.ravel(), samples.rows, score=[0.0] * len(samples))


class WeightsOnly:
    """A method that shows nothing but the model's topmost kernel, on the image's pixels."""

    def explain(self, scorer, samples):
        kernel = scorer.model.layers[-1].kernel.numpy()
        values = np.stack([np.resize(kernel[:, t], samples.images.shape[1:]) for t in samples.targets[:, 0]])
        return kx.Attribution("kernel", values, samples.targets.ravel(), samples.rows, score=[0.0] * len(samples))


def test_a_method_that_ignores_the_model_fails_and_one_that_is_the_model_passes(trained):
    model, samples = trained
    ignores, follows = (
        kx.metrics.evaluate(model, samples, e.explain(kx.Scorer(model), samples), ["randomization"], explainer=e)
        for e in (Picture(), WeightsOnly())
    )
    for name in ("spearman", "spearman_absolute", "ssim"):
        assert ignores[f"randomization_{name}"] == pytest.approx(1)
    assert ignores["randomization_passed"] == ignores["randomization_arun"] == 0
    assert follows["randomization_passed"] == 1
    assert abs(follows["randomization_spearman"]) < 0.1


def test_the_first_stage_turns_the_map_round_and_back(trained):
    """The map of a linear head is linear in it, so the mean over w and -w is nothing, whatever was drawn."""
    model, samples = trained
    found = kx.explain(model, samples, "vanilla")
    measured = kx.metrics.measure(model, samples, found, ["randomization"], explainer=kx.Saliency()).measures
    np.testing.assert_allclose(measured["randomization_spearman_stages"][:, 0], 0, atol=1e-6)
    assert (measured["randomization_spearman_absolute_stages"][:, 0] > 0.1).all()
    assert measured["randomization_passed"].tolist() == [1.0] * 6
    guided = kx.explain(model, samples, "guided")
    measured = kx.metrics.measure(model, samples, guided, ["randomization"], explainer=kx.Saliency("guided")).measures
    assert (measured["randomization_spearman_stages"][:, 0] > 0.2).all()  # the rule is blind to part of the sign


def test_randomization_means_and_verdicts_follow_from_its_stages(trained):
    model, samples = trained
    found = kx.explain(model, samples, "vanilla")
    metric = Randomization(stages=3, seed=4)
    measured = kx.metrics.measure(model, samples, found, [metric], explainer=kx.Saliency()).measures
    for name in ("spearman", "spearman_absolute", "ssim"):
        stages = measured[f"randomization_{name}_stages"]
        assert stages.shape == (6, 3)
        np.testing.assert_allclose(measured[f"randomization_{name}"], stages.mean(axis=1))
    pairs = [ssim(found.values[[i]], found.values[[j]])[0] for i in range(6) for j in range(i)]
    np.testing.assert_allclose(measured["randomization_ssim_of_images"], np.mean(pairs))
    arun = measured["randomization_ssim"] < np.mean(pairs)
    np.testing.assert_array_equal(measured["randomization_arun"], arun)
    other = kx.metrics.measure(model, samples, found, [Randomization(stages=3, seed=5)], explainer=kx.Saliency())
    assert (
        other.measures["randomization_spearman_stages"][:, 1:] != measured["randomization_spearman_stages"][:, 1:]
    ).all()
    scaled = dataclasses.replace(found, values=3 * found.values)
    again = kx.metrics.measure(model, samples, scaled, [metric], explainer=kx.Saliency()).measures
    np.testing.assert_allclose(again["randomization_spearman"], measured["randomization_spearman"], atol=1e-9)


def test_independent_randomization_keeps_the_upper_layers(trained):
    model, samples = trained
    seen = []

    class Watching(kx.Saliency):
        def explain(self, scorer, samples):
            seen.append([np.array(v.numpy()) for v in scorer.model.weights])
            return super().explain(scorer, samples)

    found = kx.explain(model, samples, "vanilla")
    own = [np.array(v.numpy()) for v in model.weights]

    def changed(weights):
        return [not np.array_equal(a, b) for a, b in zip(own, weights, strict=True)]

    patterns = {}
    for mode in ("cascading", "independent"):
        seen.clear()
        measured = kx.metrics.measure(model, samples, found, [Randomization(mode)], explainer=Watching()).measures
        assert ("randomization_passed" in measured) == (mode == "cascading")
        patterns[mode] = [changed(weights) for weights in seen]
    # Weights in order: convolution, normalisation, convolution, dense; biases restart at nothing and so change too.
    groups = [len(layer.weights) for layer in model.layers if layer.weights][::-1]
    assert groups == [2, 2, 4, 2]
    cascade, alone = (patterns[mode][1:] for mode in ("cascading", "independent"))  # the first is w, then -w
    for k in range(4):
        upper, this = sum(groups[:k]), groups[k]
        reverse_cascade, reverse_alone = cascade[k][::-1], alone[k][::-1]
        assert any(reverse_cascade[upper : upper + this])
        assert any(reverse_alone[upper : upper + this])
        assert not any(reverse_cascade[upper + this :])
        assert not any(reverse_alone[upper + this :])
        assert any(reverse_cascade[:upper]) == (k > 0)
        assert not any(reverse_alone[:upper])


class Failing:
    """Explains once, and fails at the third time, in the middle of the cascade."""

    times = 0

    def explain(self, scorer, samples):
        Failing.times += 1
        if Failing.times > 2:
            raise RuntimeError("out of luck")
        return kx.Saliency().explain(scorer, samples)


@pytest.mark.parametrize("mode", ["cascading", "independent"])
def test_the_trained_weights_come_back_to_the_bit_also_after_an_error(trained, mode):
    model, samples = trained
    model.layers[0].kernel.assign(np.where(np.arange(54).reshape(3, 3, 1, 6) == 5, -0.0, model.layers[0].kernel))
    before = [v.numpy().tobytes() for v in model.variables]
    found = kx.explain(model, samples, "vanilla")
    kx.metrics.measure(model, samples, found, [Randomization(mode)], explainer=kx.Saliency())
    assert [v.numpy().tobytes() for v in model.variables] == before
    Failing.times = 0
    with pytest.raises(RuntimeError, match="out of luck"):
        kx.metrics.measure(model, samples, found, [Randomization(mode)], explainer=Failing())
    assert Failing.times == 3
    assert [v.numpy().tobytes() for v in model.variables] == before


def test_new_values_have_the_spread_of_the_initializers_and_differ(trained):
    model, _ = trained
    dense = model.layers[-1]
    before = [np.array(v.numpy()) for v in dense.weights]
    drawn = []
    try:
        for seed in (0, 1, 0):
            kx.metrics.randomization.reinitialize(dense, [seed, 0])
            drawn.append(np.array(dense.kernel.numpy()))
    finally:
        for variable, value in zip(dense.weights, before, strict=True):
            variable.assign(value)
    assert np.array_equal(drawn[0], drawn[2])
    assert abs(np.corrcoef(drawn[0].ravel(), drawn[1].ravel())[0, 1]) < 0.15
    assert np.std(drawn) == pytest.approx(0.5, rel=0.1)  # RandomNormal(0, 0.5)


def names_of(model, stages, shape=(8, 8, 1), output=None):
    scorer = kx.Scorer(model, output)
    return [[layer.name for layer in group] for group in stages_of(scorer, np.zeros((1, *shape)), stages)]


def test_stages_open_nested_models_from_the_output_downwards():
    inner = keras.Sequential([keras.Input((8, 8, 1)), layers.Conv2D(2, 3, name="a"), layers.Conv2D(2, 3, name="b")])
    model = keras.Sequential([keras.Input((8, 8, 1)), inner, layers.Flatten(), layers.Dense(2, name="c")])
    assert names_of(model, 8) == [["c"], ["b"], ["a"]]
    assert names_of(model, 2) == [["c"], ["b", "a"]]
    assert names_of(model, 1) == [["c", "b", "a"]]
    groups = stages_of(kx.Scorer(model), np.zeros((1, 8, 8, 1)), 8)
    assert sum(len(own_weights(layer)) for group in groups for layer in group) == len(model.weights)
    with pytest.raises(kx.InputError, match="no weights that could be randomized"):
        names_of(keras.Sequential([keras.Input((4,)), layers.Activation("softmax")]), 8, (4,))


def test_stages_follow_the_calls_to_the_explained_output():
    """Not the order in which layers were made, once for a layer that is called twice, and no other output's head."""

    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.head = layers.Dense(2, activation="softmax", name="head")
            self.twice, self.first = layers.Dense(4, name="twice"), layers.Dense(4, name="first")

        def call(self, x):
            return self.head(self.twice(self.twice(self.first(x))))

    model = Subclassed()
    model(np.zeros((1, 4)))
    assert names_of(model, 8, (4,)) == [["head"], ["twice"], ["first"]]
    image = keras.Input((4,))
    body = layers.Dense(3, name="body")(image)
    aside = keras.Sequential([keras.Input((3,)), layers.Dense(2, name="inner"), layers.Dense(2, "softmax")], name="b")
    heads = {"a": layers.Dense(2, "softmax", name="a")(body), "b": aside(body)}
    for outputs, output in ((heads, "a"), (list(heads.values()), "a")):
        assert names_of(keras.Model(image, outputs), 8, (4,), output) == [["a"], ["body"]]


def test_a_layer_that_leads_to_both_outputs_is_randomized_and_the_last_call_counts():
    image = keras.Input((4,))
    shared = layers.Dense(4, name="shared")
    inner = keras.Input((4,))
    aside = keras.Model(inner, layers.Dense(2, "softmax", name="end")(shared(inner)), name="b")
    outputs = {"a": layers.Dense(2, "softmax", name="a")(shared(image)), "b": aside(image)}
    assert names_of(keras.Model(image, outputs), 8, (4,), "a") == [["a"], ["shared"]]
    first, second = layers.Dense(4, name="first"), layers.Dense(4, name="second")
    again = keras.Model(image, layers.Dense(2, "softmax", name="top")(first(second(first(image)))))
    assert names_of(again, 8, (4,)) == [["top"], ["first"], ["second"]]


def test_the_first_stage_reaches_down_to_what_multiplies(random):
    """A shift on top moves no gradient, so re-initialising it alone would fail every method."""
    steps = [keras.Input((4, 4, 1)), layers.Flatten(), layers.Dense(2, name="d")]
    model = keras.Sequential([*steps, layers.BatchNormalization(scale=False, name="n"), layers.Softmax()])
    assert names_of(model, 8, (4, 4, 1)) == [["n", "d"]]
    samples = kx.Samples(random.random((2, 4, 4, 1)), [0, 1])
    found = kx.explain(model, samples, "vanilla")
    measured = kx.metrics.measure(model, samples, found, ["randomization"], explainer=kx.Saliency()).measures
    np.testing.assert_allclose(measured["randomization_spearman_stages"][:, 0], 0, atol=1e-6)


def test_what_does_not_learn_and_slopes_are_no_multipliers():
    image = (8, 8, 1)
    steps = [keras.Input(image), layers.Flatten(), layers.SpectralNormalization(layers.Dense(2, name="d"), name="sn")]
    assert names_of(keras.Sequential([*steps, layers.Softmax()]), 8, image) == [["sn", "d"]]
    steps = [keras.Input(image), layers.Conv2D(2, 3, name="c"), layers.PReLU(shared_axes=[1, 2], name="p")]
    assert names_of(keras.Sequential([*steps, layers.GlobalAveragePooling2D(), layers.Softmax()]), 8, image) == [
        ["p", "c"]
    ]
    frozen = keras.Sequential([keras.Input((3,)), layers.Dense(3, name="a"), layers.Dense(2, "softmax", name="b")])
    frozen.trainable = False
    assert names_of(frozen, 8, (3,)) == [["b"], ["a"]]


def test_every_kind_of_weight_is_given_new_values():
    """By Keras' own initializers where there are some, else by noise of the trained spread."""

    class Odd(keras.initializers.Initializer):
        def __init__(self, needed):
            self.needed = needed

        def __call__(self, shape, dtype=None):
            return keras.random.normal(shape, dtype=dtype)  # draws from the generator that training uses

    keras.utils.set_random_seed(0)
    kinds = [
        (
            layers.DepthwiseConv2D(5, depthwise_initializer=keras.initializers.RandomNormal(3.0, 0.1)),
            (8, 8, 30),
            3.0,
            0.1,
        ),
        (layers.LSTM(30, recurrent_initializer=keras.initializers.RandomNormal(2.0, 0.1)).cell, (30,), 2.0, 0.1),
        (layers.Dense(30, kernel_initializer=Odd(1)), (30,), 5.0, 0.3),
    ]
    for layer, shape, mean, spread in kinds:
        layer.build((None, *shape))
        variable = layer.weights[-2] if hasattr(layer, "recurrent_kernel") else layer.weights[0]
        variable.assign(np.random.default_rng(9).normal(5, 0.3, variable.shape))
        twin = np.array(variable.numpy())
        state = np.array(keras.random.uniform((3,), seed=1)), keras.src.random.seed_generator.global_seed_generator()
        before = np.array(state[1].state.numpy())
        kx.metrics.randomization.reinitialize(layer, [0, 0, 0])
        now = variable.numpy()
        assert now.mean() == pytest.approx(mean, abs=0.05)
        assert now.std() == pytest.approx(spread, rel=0.1)
        assert abs(np.corrcoef(now.ravel(), twin.ravel())[0, 1]) < 0.2
        np.testing.assert_array_equal(state[1].state.numpy(), before)
    quantized = keras.Sequential([keras.Input((30,)), layers.Dense(30)])
    quantized.layers[0].quantize("int8")
    (kernel,) = (v for v in own_weights(quantized.layers[0]) if not keras.backend.is_float_dtype(v.dtype))
    before = np.array(kernel.numpy())
    kx.metrics.randomization.reinitialize(quantized.layers[0], [0])
    assert (kernel.numpy() != before).mean() > 0.5
    np.testing.assert_array_equal(np.sort(kernel.numpy(), axis=None), np.sort(before, axis=None))


def test_new_values_differ_between_layers_weights_stages_and_seeds():
    layer = layers.Dense(20, bias_initializer="random_normal", kernel_initializer="random_normal")
    layer.build((None, 20))
    drawn = []
    for seed in ([0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]):
        kx.metrics.randomization.reinitialize(layer, seed)
        drawn += [layer.kernel.numpy()[0].copy(), layer.bias.numpy().copy()]
    assert len({row.tobytes() for row in drawn}) == len(drawn)
    model = small_cnn()
    samples = kx.Samples(np.random.default_rng(0).random((1, 8, 8, 1)), [0])
    seen = []

    class Watching(kx.Saliency):
        def explain(self, scorer, samples):
            seen.append([np.array(v.numpy()) for v in scorer.model.weights if len(v.shape) > 1])
            return super().explain(scorer, samples)

    found = kx.explain(model, samples, "vanilla")
    kx.metrics.measure(model, samples, found, [Randomization("independent", seed=3)], explainer=Watching())
    own = np.array(model.layers[0].kernel.numpy())
    # Stage k draws with [seed, k, place in the group]: the lowest convolution, in stage 2, not as in stage 0.
    kernel = model.layers[0].kernel
    try:
        kx.metrics.randomization.reinitialize(model.layers[0], [3, 2, 0])
        np.testing.assert_array_equal(seen[3][0], kernel.numpy())
    finally:
        kernel.assign(own)


def test_a_normalisation_on_top_is_turned_round_too(random):
    model = keras.Sequential(
        [keras.Input((4, 4, 1)), layers.Flatten(), layers.Dense(2), layers.BatchNormalization(), layers.Softmax()]
    )
    model.layers[2].moving_mean.assign([0.1, 0.2])
    samples = kx.Samples(random.random((2, 4, 4, 1)), [0, 1])
    found = kx.explain(model, samples, "vanilla")
    measured = kx.metrics.measure(model, samples, found, ["randomization"], explainer=kx.Saliency()).measures
    np.testing.assert_allclose(measured["randomization_spearman_stages"][:, 0], 0, atol=1e-6)


def test_a_method_does_not_pass_because_the_new_values_kill_the_network(random):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((16, 16, 1)),
            layers.Conv2D(4, 3, activation="relu", kernel_initializer="zeros"),
            layers.Conv2D(4, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(2, activation="softmax"),
        ]
    )
    model.layers[0].kernel.assign(random.normal(size=(3, 3, 1, 4)))
    samples = kx.Samples(random.random((3, 16, 16, 1)), [0, 1, 0])
    found = kx.explain(model, samples, "guided")
    measured = kx.metrics.measure(model, samples, found, ["randomization"], explainer="guided").measures
    for name in ("spearman", "spearman_absolute", "ssim"):
        stages = measured[f"randomization_{name}_stages"]
        assert np.isnan(stages[:, 2]).all()
        np.testing.assert_allclose(measured[f"randomization_{name}"], stages[:, :2].mean(axis=1))


class Halves:
    """Two images: the map of the first stays, that of the second is turned round with each new set of weights."""

    def explain(self, scorer, samples):
        flip = 1.0 if scorer.model.layers[-1].kernel.numpy()[0, 0] == 7 else -1.0
        warnings.warn("of a random model", kx.ExplanationWarning, stacklevel=2) if flip < 0 else None
        ramp = np.linspace(-1, 1, 256).reshape(16, 16, 1)
        values = np.stack([ramp, 0.5 * ramp + 0.1 * ramp**2]) * np.array([1.0, flip]).reshape(2, 1, 1, 1)
        return kx.Attribution("halves", values, samples.targets.ravel(), samples.rows, score=[0.0] * 2)


def test_the_verdict_is_one_for_the_method_and_turns_at_one_half(random):
    model = keras.Sequential([keras.Input((16, 16, 1)), layers.Flatten(), layers.Dense(2, activation="softmax")])
    model.layers[-1].kernel.assign(np.full((256, 2), 7.0))
    samples = kx.Samples(random.random((2, 16, 16, 1)), [0, 1])
    found = Halves().explain(kx.Scorer(model), samples)
    measured = kx.metrics.measure(model, samples, found, ["randomization"], explainer=Halves()).measures
    np.testing.assert_allclose(measured["randomization_spearman"], [1, -1])
    np.testing.assert_array_equal(measured["randomization_passed"], [1, 1])  # 0 on average
    for left, passed in ((0.499, 1), (0.501, 0)):
        assert kx.metrics.randomization._less(left, kx.metrics.randomization.MOST_RANK_LEFT) == passed


def test_arun_compares_with_fifty_pairs_of_different_images(random):
    values = random.random((12, 16, 16, 1))
    rows, targets = np.repeat(np.arange(6), 2), np.tile([0, 1], 6)
    values[1::2] = values[::2]  # the two targets of an image have one map, which must not count
    found = attribution(values, targets=targets, rows=rows)
    different = [ssim(values[[i]], values[[j]])[0] for i in range(12) for j in range(i) if rows[i] != rows[j]]
    assert len(different) == 60
    drawn = kx.metrics.randomization._ssim_of_images(found, 0)
    assert abs(drawn - np.mean(different)) < 0.01
    assert kx.metrics.randomization._MOST_PAIRS == 50
    few = attribution(values[:4], targets=targets[:4], rows=rows[:4])
    assert kx.metrics.randomization._ssim_of_images(few, 0) == pytest.approx(
        ssim(values[[0]], values[[2]])[0]
    )  # four pairs, all alike


def test_the_limit_counts_every_explanation(random):
    samples = kx.Samples(random.random((1, 8, 8, 1)), [0])
    model = kx.Scorer(small_cnn())
    found = kx.explain(model, samples, "vanilla")

    def measured(limit, evaluations=3.0):
        metric = Randomization(stages=2, limit=limit)
        return metric.measure(found, Context(model, samples, kx.Saliency(), evaluations=evaluations))

    assert measured(9)
    assert not measured(8.9)
    assert measured(1, evaluations=None)  # not counted


def test_measuring_leaves_the_explainer_as_it_was(random):
    samples = kx.Samples(random.random((1, 8, 8, 1)), [0])
    model = kx.Scorer(small_cnn())
    lime = kx.Lime(30, lambda image: np.arange(64).reshape(8, 8) // 8, hide=0.0)
    found = kx.explain(model, samples, lime)
    kept = lime.explanations
    kx.metrics.measure(model, samples, found, ["randomization", "sensitivity", "stability"], explainer=lime)
    assert lime.explanations is kept


# Sensitivity and stability


class Squares:
    """x^2 times the weights of the class, which moves with the image."""

    def explain(self, scorer, samples):
        weights = scorer.model.layers[-1].kernel.numpy()[:, samples.targets[:, 0]].T
        values = samples.images**2 * weights.reshape(samples.images.shape)
        return kx.Attribution("squares", values, samples.targets.ravel(), samples.rows, score=[0.0] * len(samples))


def test_sensitivity_of_a_constant_is_nothing_and_of_the_image_itself_is_that_of_the_noise(random):
    samples = kx.Samples(random.random((2, 8, 8, 1)), [0, 1], value_range=(0, 2))
    model = small_cnn()
    constant = WeightsOnly()
    found = constant.explain(kx.Scorer(model), samples)
    assert kx.metrics.evaluate(model, samples, found, ["sensitivity"], explainer=constant)["max_sensitivity"] == 0

    class Image:
        def explain(self, scorer, samples):
            return kx.Attribution("image", samples.images, samples.targets.ravel(), samples.rows, score=[0.0] * 2)

    found = Image().explain(None, samples)
    measured = kx.metrics.measure(model, samples, found, [Sensitivity(3, 0.1, seed=1)], explainer=Image())
    noise = np.random.default_rng(1).uniform(-0.2, 0.2, (3, 2, 8, 8, 1))
    norms = np.linalg.norm(noise.reshape(3, 2, -1), axis=2) / np.linalg.norm(samples.images.reshape(2, -1), axis=1)
    np.testing.assert_allclose(measured.measures["max_sensitivity"], norms.max(axis=0), rtol=1e-5)
    smaller = kx.metrics.measure(model, samples, found, [Sensitivity(3, 0.05, seed=1)], explainer=Image())
    np.testing.assert_allclose(2 * smaller.measures["max_sensitivity"], norms.max(axis=0), rtol=1e-5)
    flat = kx.Samples(np.full((2, 8, 8, 1), 0.5), [0, 1])
    nothing = attribution(np.zeros((2, 8, 8, 1)), "image", targets=[0, 1])
    for given in (flat, samples):  # no range to take the noise from, no map to compare with
        number = kx.metrics.evaluate(model, given, nothing, ["sensitivity"], explainer=Image())["max_sensitivity"]
        assert np.isnan(number)


def test_stability_indices_in_small_numbers():
    same = np.tile([3, 1, 4], (5, 1))
    assert variables_stability(same) == 100
    assert variables_stability(np.array([[0, 1], [2, 3], [4, 5]])) == 0
    assert variables_stability(np.array([[0, 1], [0, 2], [0, 1]])) == pytest.approx(100 * (0.5 + 1 + 0.5) / 3)
    errors = np.full((3, 2), 0.5)  # intervals reach 0.98 to each side
    weights = np.array([[0.0, 0.0], [1.9, 0.0], [3.9, 0.0]])
    chosen = np.array([[0, 1], [0, 1], [0, 1]])
    assert coefficients_stability(chosen, weights, errors) == pytest.approx(100 * np.mean([1 / 3, 1]))
    assert coefficients_stability(chosen, weights * 10, errors) == pytest.approx(50)
    assert np.isnan(coefficients_stability(np.array([[0], [1], [2]]), np.zeros((3, 3)), np.ones((3, 3))))
    assert np.isnan(coefficients_stability(np.array([[0], [0]]), np.ones((2, 1)), np.full((2, 1), np.nan)))
    for gap, overlap in ((1.959, 100), (1.961, 0)):
        ends = np.array([[0.0], [gap]])
        assert coefficients_stability(np.array([[0], [0]]), ends, np.full((2, 1), 0.5)) == overlap


def test_stability_is_of_its_own_target_and_image_and_of_the_strongest_features():
    """A linear model: LIME's weights are known but for the ridge, and those of largest absolute value are chosen."""
    weights = np.zeros((16, 2), "float32")
    weights[:, 0] = [-9, 8, 1, 0.1] * 4
    weights[:, 1] = 0.01
    model = keras.Sequential([keras.Input((4, 4, 1)), layers.Flatten(), layers.Dense(2)])
    model.set_weights([weights, np.zeros(2)])
    model.compile(loss=keras.losses.CategoricalCrossentropy(from_logits=True))
    columns, images = np.tile(np.arange(4), (4, 1)), np.ones((2, 4, 4, 1))
    images[1, :, 2:] = 10000  # in the second image, the other two columns are the strongest
    lime = kx.Lime(200, lambda image: columns if image[0, 3, 0] == image[0, 0, 0] else columns[:, ::-1], hide=0.0)
    samples = kx.Samples(images, [[0, 1]] * 2)
    found = kx.explain(model, samples, lime)
    context = Context(kx.Scorer(model), samples, lime)
    measured = Stability(repeats=3, features=2).measure(found, context)
    assert measured["vsi"][0] == measured["vsi"][2] == 100
    one = Stability(repeats=3, features=2)
    again = [one._repeated(found.details["segments"][row], sample, lime, context) for sample, row in ((0, 0), (1, 2))]
    for sample, runs in enumerate(again):
        for t in range(2):
            w = np.array([run.details["weights"][t] for run in runs])
            e = np.array([run.details["weight_error"][t] for run in runs])
            chosen = np.argsort(-np.abs(w), axis=1, kind="stable")[:, :2]
            assert measured["csi"][2 * sample + t] == pytest.approx(coefficients_stability(chosen, w, e))
            assert measured["vsi"][2 * sample + t] == pytest.approx(variables_stability(chosen))
    first = [set(np.argsort(-np.abs(run.details["weights"][0]))[:2]) for run in again[0]]
    assert first == [{0, 1}] * 3  # -9 and 8: sign does not count
    seeds = [run.settings["seed"] for run in again[0]]
    assert lime.seed not in seeds
    assert len(set(seeds)) == 3
    assert np.isnan(Stability(repeats=2, features=4).measure(found, context)["vsi"]).all()  # all of them, always


def test_the_errors_of_limes_weights_are_those_written_out(random):
    samples = kx.Samples(random.random((1, 8, 8, 1)), [1])
    model = kx.Scorer(small_cnn())
    lime = kx.Lime(40, lambda image: np.arange(64).reshape(8, 8) // 8, hide=0.0)
    found = kx.explain(model, samples, lime)
    present = balanced_subsets(40, 8, lime.seed).astype("float64")
    image = samples.images[0]
    segments = np.arange(64).reshape(8, 8) // 8
    logits = model.logits(np.stack([image * row[segments][..., None] for row in present]).astype("float32"))[:, 1]
    fit = lime.explanations[0]
    weights = found.details["weights"][0]
    residual = logits - fit.intercept[1] - present @ weights
    weight = kernel(1 - np.sqrt(present.mean(axis=1)))
    np.testing.assert_allclose(
        found.details["weight_error"][0], reference.ridge_errors(present, weight, residual), rtol=1e-4
    )
    few = kx.explain(model, samples, kx.Lime(8, lambda image: segments, hide=0.0))
    assert np.isnan(few.details["weight_error"]).all()


def test_limes_stability_rises_with_its_samples(random):
    samples = kx.Samples(random.random((2, 8, 8, 1)), [[0, 1]] * 2)
    model = kx.Scorer(small_cnn())
    numbers = {}
    for count in (20, 2000):
        lime = kx.Lime(count, lambda image: np.arange(64).reshape(8, 8) // 4, hide=0.0)
        found = kx.explain(model, samples, lime)
        before = model.evaluations
        measured = kx.metrics.measure(model, samples, found, [Stability(repeats=4)], explainer=lime).measures
        assert model.evaluations - before == 2 * 4 * count
        assert measured["vsi"].shape == (4,)
        numbers[count] = measured["vsi"].mean()
    assert numbers[2000] > numbers[20] + 10
    saliency = kx.explain(model, samples, "vanilla")
    with pytest.warns(kx.ExplanationWarning, match="Stability measures nothing of these vanilla maps: it needs LIME"):
        assert kx.metrics.evaluate(model, samples, saliency, ["stability"], explainer="vanilla") == {}


def test_stability_keeps_the_superpixels(random):
    """With random superpixels in every call, nothing else would be comparable."""
    samples = kx.Samples(random.random((1, 8, 8, 1)), [0])
    calls = []

    def segmentation(image):
        calls.append(1)
        return np.random.default_rng(len(calls)).integers(0, 8, (8, 8))

    model, lime = kx.Scorer(small_cnn()), kx.Lime(500, segmentation, hide=0.0)
    found = kx.explain(model, samples, lime)
    vsi = kx.metrics.evaluate(model, samples, found, [Stability(repeats=3, features=2)], explainer=lime)["vsi"]
    assert len(calls) == 1
    assert vsi == 100


# Together


def test_evaluate_averages_what_is_defined(random):
    images = random.random((2, 8, 8, 1)).astype("float32")
    roi = np.zeros((2, 8, 8), bool)
    roi[0, :4] = True
    samples = kx.Samples(images, [[0, 1]] * 2, background=images, roi=roi)
    model = kx.Scorer(small_cnn())
    found = kx.explain(model, samples, kx.GradientShap(samples=9))
    numbers = kx.metrics.evaluate(model, samples, found)
    assert numbers["completeness_error"] == pytest.approx(found.completeness_error.mean())
    assert numbers["relative_completeness_error"] == pytest.approx(found.relative_completeness_error.mean())
    errors = np.sqrt((found.standard_error.astype("float64") ** 2).sum(axis=(1, 2, 3)))
    assert numbers["standard_error"] == pytest.approx(errors.mean())
    # The second sample has no finding and does not count.
    for metric in LOCALIZATION:
        assert numbers[metric.__name__] == pytest.approx(metric(found.values[:2], roi[[0, 0]]).mean())
    assert numbers["roi_area"] == 0.5
    magnitude = kx.metrics.evaluate(model, samples, found, [kx.metrics.Localization(absolute=True)])
    flat = np.abs(found.flat[:2])[..., None]
    assert magnitude["auprc"] == pytest.approx(auprc(flat, roi[[0, 0]]).mean())
    lime = kx.explain(model, samples, kx.Lime(12, lambda x: np.arange(64).reshape(8, 8) // 16))
    assert kx.metrics.evaluate(model, samples, lime, ["completeness"]) == {
        "r2": pytest.approx(lime.details["r2"].mean()),
        "effect": pytest.approx(lime.details["effect"].mean()),
    }
    vanilla = kx.explain(model, samples, "vanilla")
    assert "completeness_error" not in kx.metrics.evaluate(model, samples, vanilla)
    left = kx.metrics.Border(foreground=lambda image: np.arange(64).reshape(8, 8) % 8 < 2)
    assert kx.metrics.evaluate(model, samples, vanilla, [left])["border_area"] == 0.75
    nothing = dataclasses.replace(samples, roi=np.zeros((2, 8, 8)))
    assert np.isnan(kx.metrics.evaluate(model, nothing, vanilla, ["localization"])["auprc"])
    unknown = dataclasses.replace(samples, roi=np.zeros((0, 8, 8)))
    assert "auprc" not in kx.metrics.evaluate(model, unknown, vanilla)


def test_what_does_not_fit_is_named(random):
    samples = kx.Samples(random.random((1, 8, 8, 1)), [0])
    model = kx.Scorer(small_cnn())
    found = kx.explain(model, samples, "vanilla")
    with pytest.raises(kx.InputError, match="The randomization test explains again: give it the explainer"):
        kx.metrics.evaluate(model, samples, found, ["randomization"])
    with pytest.raises(kx.InputError, match="Max-sensitivity explains again: give it the explainer"):
        kx.metrics.evaluate(model, samples, found, ["sensitivity"])
    with pytest.raises(kx.InputError, match="metrics must be a list"):
        kx.metrics.evaluate(model, samples, found, "border")
    with pytest.raises(kx.InputError, match="The vanilla maps are not of these samples"):
        kx.metrics.evaluate(model, kx.Samples(np.zeros((1, 4, 4, 1)), [0]), found)


def test_a_failing_metric_is_told_and_the_others_are_done(random):
    samples = kx.Samples(random.random((1, 8, 8, 1)), [0])
    found = kx.explain(small_cnn(), samples, "vanilla")
    told = []
    measured = kx.metrics.measure(
        small_cnn(), samples, found, ["randomization", "border"], failed=lambda metric, error: told.append(metric)
    )
    assert [type(metric) for metric in told] == [Randomization]
    assert set(measured.measures) == {"border_share", "border_area"}


def test_each_metric_takes_the_evaluations_that_it_states(trained):
    model, samples = trained
    scorer = kx.Scorer(model)
    explainer = kx.IntegratedGradients(steps=8)
    found = kx.explain(scorer, samples, explainer)
    located = dataclasses.replace(samples, roi=samples.images[..., 0] > 0.5)
    one_map = 8 + 2  # the image's score, the baseline's of all images: at most
    stated = {
        **dict.fromkeys(("completeness", "localization", "border", "agreement", "drift"), 0),
        "faithfulness": 6 * 2 * 17,
        "randomization": (4 + 1) * 6 * one_map,
        "sensitivity": 10 * 6 * one_map,
    }
    for name, evaluations in stated.items():
        before = scorer.evaluations
        kx.metrics.measure(scorer, located, found, [name], explainer=explainer, others=[found], before=(samples, found))
        assert 0.8 * evaluations <= scorer.evaluations - before <= evaluations, name


def test_the_default_metrics_add_less_than_a_tenth_to_a_round(tmp_path):
    """The last round, in which they take most, of the default methods."""
    model, samples = trained_cnn()
    images, labels = samples.images, samples.targets.ravel()
    callback = ExplanationCallback(
        (images, labels), tracker=kx.DirectoryTracker(tmp_path), frequency=1, on_error="raise", images_per_class=2
    )
    model.fit(images, labels, epochs=1, verbose=0, callbacks=[callback])
    spent = callback.latest.evaluations
    measuring = sum(count for name, count in spent.items() if name.startswith("measuring"))
    explaining = sum(count for name, count in spent.items() if not name.startswith("measuring"))
    assert 0 < measuring < 0.1 * explaining
    assert "val_explain_vanilla_randomization_passed" in callback.latest.numbers
    assert "val_explain_lime_randomization_passed" not in callback.latest.numbers


# Quantus


@pytest.fixture(scope="module")
def quantus():
    """What Quantus says of known maps, see quantus_values.py; images as channels last."""
    with np.load(Path(__file__).parent / "data" / "quantus.npz") as file:
        found = dict(file)
    for name in ("images", "maps", "squared"):
        found[name] = np.moveaxis(found[name], 1, -1)
    found["roi"] = found["roi"][:, 0]
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(3, "softmax", use_bias=False)])
    model.set_weights([found["weights"]])
    return kx.Scorer(model), kx.Samples(found["images"], found["targets"], value_range=(0, 1)), found


def test_localization_agrees_with_quantus(quantus):
    _, _, found = quantus
    for metric in (pointing_game, relevance_mass, relevance_rank):
        np.testing.assert_allclose(metric(found["maps"], found["roi"]), found[metric.__name__], rtol=1e-5)
    np.testing.assert_allclose(spearman(found["maps"], found["squared"]), found["spearman"])


def test_deletion_agrees_with_quantus(quantus):
    scorer, samples, found = quantus
    maps = attribution(found["maps"], targets=found["targets"])
    measured = kx.metrics.measure(scorer, samples, maps, [Faithfulness(16, baseline=0.0)]).measures["deletion"]
    probability = scorer.head(samples.images).probabilities(scorer.logits(samples.images))
    start = probability[np.arange(6), found["targets"]]
    # Quantus lists the probabilities after each step, not the one before the first.
    expected = np.trapezoid(np.concatenate([start[:, None], found["deletion"]], axis=1), dx=1 / 16)
    np.testing.assert_allclose(measured, expected, rtol=1e-5)


def test_max_sensitivity_agrees_with_quantus(quantus):
    scorer, samples, found = quantus
    squares = Squares().explain(scorer, samples)
    np.testing.assert_allclose(squares.values, found["squared"], rtol=1e-6)
    measured = kx.metrics.measure(scorer, samples, squares, ["sensitivity"], explainer=Squares()).measures
    np.testing.assert_allclose(measured["max_sensitivity"], found["max_sensitivity"], rtol=1e-4)


def test_where_quantus_is_wrong(quantus):
    scorer, samples, found = quantus
    exact = kx.explain(scorer, samples, kx.IntegratedGradients(4))
    assert (exact.completeness_error < 1e-5).all()
    assert not found["completeness"].any()  # it compares floats with ==
    assert found["pointing_game_empty"].all()  # an empty region is hit
    assert np.isnan(pointing_game(found["maps"], np.zeros_like(found["roi"]))).all()
    assert found["relevance_mass_signed"].min() < 0  # a share that is negative


def test_every_target_is_measured_as_if_it_had_been_asked_for_alone(random):
    samples = kx.Samples(random.random((2, 8, 8, 1)), [0, 1], roi=random.random((2, 8, 8)) > 0.8)
    model = kx.Scorer(small_cnn())
    lime = kx.Lime(30, lambda image: np.arange(64).reshape(8, 8) // 8, hide=0.0)
    names = ["localization", "sensitivity", Randomization(stages=2)]
    for explainer, metrics in ((kx.Saliency(), names), (lime, [Stability(repeats=2, features=2)])):
        found = kx.explain(model, samples, explainer, targets="all")
        measured = kx.metrics.measure(model, samples, found, metrics, explainer=explainer).measures
        for target in range(found.targets.max() + 1):
            alone = samples.asking([target] * 2)
            one = kx.metrics.measure(model, alone, kx.explain(model, alone, explainer), metrics, explainer=explainer)
            for name in ("relevance_mass", "max_sensitivity", "randomization_spearman", "vsi"):
                if name in measured:
                    np.testing.assert_allclose(measured[name][found.targets == target], one.measures[name], rtol=1e-5)


def test_what_does_not_apply_is_said(random):
    samples = kx.Samples(random.random((1, 8, 8, 1)), [0])
    model = kx.Scorer(small_cnn())
    found = kx.explain(model, samples, "vanilla")
    for name, needs in (("agreement", "others"), ("drift", "before"), ("localization", "samples.roi")):
        with pytest.warns(kx.ExplanationWarning, match=f"measures nothing of these vanilla maps: it needs {needs}"):
            assert kx.metrics.evaluate(model, samples, found, [name]) == {}
    limited = [Randomization(stages=2, limit=2)]
    with pytest.warns(kx.ExplanationWarning, match="needs a method within its limit"):
        kx.metrics.evaluate(model, samples, found, limited, explainer="vanilla", evaluations=1)
    kx.metrics.evaluate(model, samples, found)  # unasked, what does not apply is left out


def test_one_number_has_one_source(random):
    samples = kx.Samples(random.random((1, 8, 8, 1)), [0], roi=np.eye(8)[None])
    model = kx.Scorer(small_cnn())
    found = kx.explain(model, samples, "vanilla")
    both = ["localization", kx.metrics.Localization(absolute=True)]
    with pytest.raises(kx.InputError, match=r"Localization measures auprc, .* as another metric does"):
        kx.metrics.measure(model, samples, found, both)
    measured = kx.metrics.measure(model, samples, found, both[:1])
    assert list(kx.metrics.evaluate(model, samples, measured, ["faithfulness"])) == [
        "deletion",
        "deletion_logit",
        "insertion",
        "insertion_logit",
    ]  # and nothing that was measured before


def test_arguments_that_can_not_belong_to_the_maps_are_refused(random):
    samples = kx.Samples(random.random((1, 8, 8, 1)), [0])
    model = kx.Scorer(small_cnn())
    gradient, integral = kx.explain(model, samples, "vanilla"), kx.explain(model, samples, kx.IntegratedGradients(8))

    def evaluate(found, **given):
        return kx.metrics.evaluate(model, samples, found, ["sensitivity"], **given)

    with pytest.raises(kx.InputError, match="explainer is of the method 'guided'; the maps are 'vanilla'"):
        evaluate(gradient, explainer="guided")
    with pytest.raises(kx.InputError, match="explainer has steps=64; the maps were made with steps=8"):
        evaluate(integral, explainer="integrated_gradients")
    assert evaluate(integral, explainer=kx.IntegratedGradients(8))["max_sensitivity"] > 0
    with pytest.raises(kx.InputError, match="attribution must be one Attribution; got list"):
        evaluate([gradient])
    with pytest.raises(kx.InputError, match="others must be a list of Attributions; got Attribution"):
        evaluate(gradient, others=integral)
    with pytest.raises(kx.InputError, match=r"before must be \(samples, attribution\) of an earlier time"):
        evaluate(gradient, before=gradient)
    with pytest.raises(kx.InputError, match="foreground must be a function of an image; got 3"):
        kx.metrics.Border(3)


def test_a_metric_that_gives_no_numbers_is_told_and_the_others_are_done(random):
    class Odd:
        when = "round"

        def __init__(self, given):
            self.given = given

        def measure(self, attribution, context):
            return {"mine": self.given}

    samples = kx.Samples(random.random((2, 8, 8, 1)), [0, 1])
    model = kx.Scorer(small_cnn())
    found = kx.explain(model, samples, "vanilla")
    for given, words in (
        (1.0, r"measures\['mine'\] has shape \(\) for 2 maps"),
        ([1.0], r"measures\['mine'\] has shape \(1,\) for 2 maps"),
        (["a", "b"], "Odd must give numbers; mine are none"),
    ):
        told = []
        measured = kx.metrics.measure(
            model, samples, found, [Odd(given), "border"], failed=lambda metric, error, told=told: told.append(metric)
        )
        assert list(measured.measures) == ["border_share", "border_area"]
        assert [type(metric) for metric in told] == [Odd]
        with pytest.raises(kx.InputError, match=words):
            kx.metrics.measure(model, samples, found, [Odd(given)])
    own = [Odd([1.0, np.nan])]
    assert kx.metrics.evaluate(model, samples, found, own) == {"mine": 1.0}


def test_maps_of_other_samples_are_refused_and_agree_with_nothing(random):
    samples = kx.Samples(random.random((2, 8, 8, 1)), [0, 1])
    model = kx.Scorer(small_cnn())
    found = kx.explain(model, samples, "vanilla")
    with pytest.raises(kx.InputError, match="The vanilla maps are not of these samples"):
        kx.metrics.measure(model, samples[[0]], found)
    swapped = dataclasses.replace(found, rows=[1, 0])
    with pytest.warns(kx.ExplanationWarning, match="needs others, of the same samples and targets"):
        kx.metrics.evaluate(model, samples, found, ["agreement"], others=[swapped])


def test_ssim_is_that_of_scikit_image_written_out(random):
    """Gaussian weights of sigma 1.5 on 11 pixels, a data range of 1."""
    first, second = random.normal(size=(2, 1, 11, 13, 1))
    one, other = ((np.abs(v) - np.abs(v).min()) / np.ptp(np.abs(v)) for v in (first[0, ..., 0], second[0, ..., 0]))
    window = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(window, window) / window.sum() ** 2
    numbers = []
    for c in range(5, 8):  # the only row whose windows lie inside
        a, b = (v[:, c - 5 : c + 6] for v in (one, other))
        m, n = (window * a).sum(), (window * b).sum()
        va, vb, cov = (
            121 / 120 * ((window * u * v).sum() - (window * u).sum() * (window * v).sum())  # as of a sample
            for u, v in ((a, a), (b, b), (a, b))
        )
        numbers.append((2 * m * n + 1e-4) * (2 * cov + 9e-4) / ((m * m + n * n + 1e-4) * (va + vb + 9e-4)))
    np.testing.assert_allclose(ssim(first, second), np.mean(numbers), rtol=1e-6)
    assert np.isnan(ssim(first[:, :10], second[:, :10])).all()


def test_localization_without_positive_values_and_of_faint_maps():
    roi = np.zeros((1, 4, 4), bool)
    roi[0, :2, :2] = True
    negative = -np.arange(16.0).reshape(1, 4, 4, 1)
    assert np.isnan(relevance_mass(negative, roi)).all()
    bright = np.where(roi[..., None], 10.0, 9.9)  # a ramp above a high floor: Otsu sees the difference alone
    assert otsu_iou(bright, roi) == 1
    two = np.concatenate([np.where(roi[..., None], 3.0, 1.0), np.where(roi[..., None], -3.0, 1.0)], axis=-1)
    found, samples = attribution(two), kx.Samples(np.zeros((1, 4, 4, 2)), [0], roi=roi)
    measured = kx.metrics.Localization(absolute=True).measure(found, context(samples))
    assert measured["auprc"][0] == pytest.approx(auprc(np.abs(two.sum(axis=-1, keepdims=True)), roi)[0])
    assert measured["auprc"][0] < 1  # of the channel sum, 0 in the region; of the channels it would be 1


def test_film_is_what_is_darker_than_seven_percent_and_each_map_has_its_own_image():
    image = np.full((1, 12, 12, 1), 1.0)
    image[0, :, :4] = 0.0
    image[0, :, 4:6] = 0.06
    image[0, :, 6:8] = 0.08
    np.testing.assert_array_equal(np.flatnonzero(breast(image[0])[0]), np.arange(6, 12))
    inside = np.ones((12, 12, 1))
    samples = kx.Samples(np.stack([inside, image[0], image[0][:, ::-1]]), [0, 1, 2])
    values = np.stack([image[0] * 0 + 1, image[0], image[0]])
    found = attribution(values, rows=[0, 2, 1])
    measured = kx.metrics.Border().measure(found, context(samples))
    np.testing.assert_array_equal(np.isnan(measured["border_area"]), [True, False, False])
    np.testing.assert_array_equal(np.isnan(measured["border_share"]), [True, False, False])
    total = image.sum()
    np.testing.assert_allclose(measured["border_share"][1:], [image[0, :, 6:].sum() / total, 0.06 * 24 / total])
