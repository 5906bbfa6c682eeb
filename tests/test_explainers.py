"""Every method against its slow twin, closed forms, and every option against itself."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers, ops
from scipy.ndimage import gaussian_filter, label
from sklearn.metrics import adjusted_rand_score

import keras_explain as kx
from keras_explain import gradients
from keras_explain.explainers.lime import balanced_subsets, partly_hidden, random_subsets
from keras_explain.explainers.masking import hidden_image
from tests import reference
from tests.conftest import BACKEND, linear_model, small_cnn, traced_only

NET = reference.Mlp()
IMAGES = np.random.default_rng(5).normal(0.3, 1, (3, 3, 4, 2)).astype("float32")
TARGETS = np.array([[0, 2], [1, 0], [2, 1]])


def rows(targets=TARGETS):
    return [(i, int(k)) for i, row in enumerate(targets) for k in row]


@pytest.mark.parametrize("rule", ["vanilla", "guided", "rectified"])
@pytest.mark.parametrize("cap", [None, 1.0])
def test_saliency_is_the_gradient_written_out(rule, cap):
    net = reference.Mlp(cap=cap)
    found = kx.explain(net.keras(), IMAGES, rule, targets=TARGETS)
    expected = [net.gradient(IMAGES[i], k, rule) for i, k in rows()]
    np.testing.assert_allclose(found.values, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.score, [net.score(IMAGES[i], k) for i, k in rows()], rtol=1e-4, atol=1e-5)
    assert found.rows.tolist() == [0, 0, 1, 1, 2, 2]
    assert found.targets.tolist() == TARGETS.reshape(-1).tolist()
    assert np.isnan(found.completeness_error).all()


@pytest.mark.parametrize("rule", ["vanilla", "guided"])
def test_smoothgrad_is_the_mean_of_signed_gradients(rule):
    found = kx.explain(NET.keras(), IMAGES, kx.Saliency(rule, smooth=6, noise=0.3, seed=4), targets=TARGETS)
    for row, (i, k) in enumerate(rows()):
        noises = np.stack([np.random.default_rng((4, k)).standard_normal((3, 4, 2), "float32") for k in range(6)])
        noises *= 0.3 * np.ptp(IMAGES[i])
        expected = reference.smoothgrad(NET, IMAGES[i].astype("float64"), k, noises, rule)
        np.testing.assert_allclose(found.values[row], expected, rtol=1e-4, atol=1e-5)


def test_smoothgrad_without_noise_is_the_gradient():
    smooth = kx.explain(NET.keras(), IMAGES, kx.Saliency(smooth=3, noise=0.0), targets=1)
    np.testing.assert_allclose(smooth.values, kx.explain(NET.keras(), IMAGES, "vanilla", targets=1).values, rtol=1e-5)


@pytest.mark.parametrize("baseline", [0.0, 0.7, IMAGES[0] / 2])
def test_integrated_gradients_is_the_integral(baseline):
    found = kx.explain(NET.keras(), IMAGES, kx.IntegratedGradients(500, baseline), targets=TARGETS)
    full = np.broadcast_to(np.asarray(baseline, "float64"), NET.shape)
    for row, (i, k) in enumerate(rows()):
        expected = reference.integrated_gradients(NET, IMAGES[i].astype("float64"), k, full)
        np.testing.assert_allclose(found.values[row], expected, atol=5e-3)
        assert found.base_score[row] == pytest.approx(NET.score(full, k), rel=1e-4)
        change = NET.score(IMAGES[i], k) - NET.score(full, k)
        assert found.completeness_error[row] == pytest.approx(abs(found.values[row].sum() - change), abs=1e-4)


def test_integrated_gradients_of_a_linear_model_is_exact():
    weights = np.random.default_rng(0).normal(0, 1, (6, 3))
    x, baseline = np.random.default_rng(1).normal(0, 1, (4, 6)), np.linspace(-1, 1, 6)
    found = kx.explain(linear_model(weights), x, kx.IntegratedGradients(1, baseline), targets=2)
    np.testing.assert_allclose(found.values, (x - baseline) * weights[:, 2], atol=1e-5)
    np.testing.assert_allclose(found.completeness_error, 0, atol=1e-5)


def product_model():
    """Logit of class 0 is x0 x1, of class 1 its negative."""
    x = keras.Input((2,))
    product = keras.ops.prod(x, axis=1, keepdims=True)
    return keras.Model(x, layers.Softmax()(layers.Concatenate()([product, -product])))


def test_integrated_gradients_of_a_product_shares_it_equally():
    found = kx.explain(product_model(), np.array([[3.0, 4.0]]), kx.IntegratedGradients(2), targets=0)
    np.testing.assert_allclose(found.values, [[6, 6]], atol=1e-4)  # two nodes integrate a cubic exactly


def trapezoids(net, x, target, steps):
    """The trapezoidal rule from zero, written out."""
    total = (net.gradient(0 * x, target) + net.gradient(x, target)) / 2
    return x * (total + sum(net.gradient(k / steps * x, target) for k in range(1, steps))) / steps


def test_tolerance_halves_the_steps_only_where_that_is_needed():
    image, k = IMAGES[0].astype("float64"), 1
    change = NET.score(image, k) - NET.score(0 * image, k)
    errors = {n: abs(trapezoids(NET, image, k, n).sum() - change) / abs(change) for n in (2, 4, 8, 16)}
    for limit, steps in ((0.2, 2), (0.045, 4), (0.02, 16)):
        assert steps == next(n for n, error in errors.items() if error <= limit)
        scorer = kx.Scorer(NET.keras())
        found = kx.explain(scorer, IMAGES[:1], kx.IntegratedGradients(2, tolerance=limit), targets=k)
        assert found.settings["steps_used"] == [steps + 1]
        assert scorer.evaluations == 2 + steps + 1  # what was computed at first is not computed again
        np.testing.assert_allclose(found.values[0], trapezoids(NET, image, k, steps), atol=1e-4)
    model, images = small_cnn(), np.random.default_rng(0).random((4, 8, 8, 1), "float32")
    used = kx.explain(model, images, kx.IntegratedGradients(2, tolerance=0.02), targets=0).settings["steps_used"]
    assert len(set(used)) > 1


def test_tolerance_holds_for_every_target_of_an_image():
    model, images = small_cnn(), np.random.default_rng(0).random((3, 8, 8, 1), "float32")
    coarse = kx.explain(model, images, kx.IntegratedGradients(2, tolerance=100.0), targets="all")
    limit = float(np.sort(coarse.relative_completeness_error)[2])
    fine = kx.explain(model, images, kx.IntegratedGradients(2, tolerance=limit), targets="all")
    assert (coarse.relative_completeness_error > limit).any()
    assert (fine.relative_completeness_error <= limit * 1.01).all()


def test_tolerance_out_of_reach_is_said():
    with pytest.warns(kx.ExplanationWarning, match="misses tolerance=1e-12 at 600 steps"):
        kx.explain(NET.keras(), IMAGES[:1], kx.IntegratedGradients(600, tolerance=1e-12), targets=0)


@pytest.mark.parametrize("samples", [22, 3])  # with 3, one image of the background is not used
def test_gradient_shap_is_the_mean_over_its_points(samples):
    background = np.random.default_rng(9).normal(0, 1, (4, 3, 4, 2)).astype("float32")
    explainer = kx.GradientShap(background, samples, seed=3)
    found = kx.explain(NET.keras(), IMAGES, explainer, targets=TARGETS)
    index, alpha = explainer._points(4)
    for row, (i, k) in enumerate(rows()):
        mean, error = reference.gradient_shap(NET, IMAGES[i].astype("float64"), k, background, index, alpha)
        np.testing.assert_allclose(found.values[row], mean, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(found.standard_error[row], error, rtol=1e-2, atol=1e-4)
        base = np.mean([NET.score(image, k) for image in background])
        assert found.base_score[row] == pytest.approx(base, rel=1e-4)


def test_gradient_shap_points_are_stratified():
    index, alpha = kx.GradientShap(samples=23)._points(5)
    assert (np.floor(alpha * 23) == np.arange(23)).all()
    assert all(sorted(index[start : start + 5]) == [0, 1, 2, 3, 4] for start in range(0, 20, 5))
    assert len(set(index[20:])) == 3


def test_gradient_shap_standard_error_covers_the_truth():
    """Over seeds, the estimate strays from the truth by no more than the standard error says, and not by far less."""
    background = np.random.default_rng(9).normal(0, 1, (3, 3, 4, 2)).astype("float32")
    model, image = kx.Scorer(NET.keras()), IMAGES[:1]
    truth = np.mean(
        [reference.integrated_gradients(NET, image[0].astype("float64"), 1, b, 4000) for b in background], 0
    )
    runs = [kx.explain(model, image, kx.GradientShap(background, 30, seed), targets=1) for seed in range(40)]
    spread = np.sqrt(np.mean([(run.values[0] - truth) ** 2 for run in runs]))
    claimed = np.sqrt(np.mean([run.standard_error[0] ** 2 for run in runs]))
    assert 0.05 * claimed < spread < claimed


def test_gradient_shap_of_a_linear_model_is_exact_in_expectation():
    weights = np.random.default_rng(0).normal(0, 1, (6, 3))
    x, background = np.random.default_rng(1).normal(0, 1, (2, 6)), np.random.default_rng(2).normal(0, 1, (5, 6))
    found = kx.explain(linear_model(weights), x, kx.GradientShap(background, samples=10), targets=0)
    np.testing.assert_allclose(found.values, (x - background.mean(axis=0)) * weights[:, 0], atol=1e-5)


def grey_setup(samples=40):
    random = np.random.default_rng(8)
    net = reference.Mlp(shape=(6, 6, 1), seed=2)
    image = random.random((6, 6, 1), "float32")
    segments = (np.arange(36) // 9).reshape(6, 6)
    explainer = kx.Lime(samples=samples, segmentation=lambda _: segments, hide="mean", sampling="random", seed=5)
    return net, image, segments, explainer


def test_lime_is_the_weighted_ridge_regression():
    net, image, segments, explainer = grey_setup()
    found = kx.explain(net.keras(), image[None], explainer, targets=[0, 2])
    means = np.array([image[segments == s].mean() for s in range(4)])
    hidden = means[segments][..., None]
    present = np.random.RandomState(5).randint(0, 2, 160).reshape(40, 4)
    present[0] = 1
    for row, k in enumerate([0, 2]):
        weights, r2 = reference.lime(lambda x, k=k: net.score(x, k), image, segments, hidden, present)
        np.testing.assert_allclose(found.details["weights"][row], weights, rtol=1e-3, atol=1e-4)
        assert found.details["r2"][row] == pytest.approx(r2, abs=1e-4)
        np.testing.assert_allclose(found.values[row, ..., 0], weights[segments], rtol=1e-3, atol=1e-4)
        scores = [net.score(np.where(row_[segments][..., None] > 0, image, hidden), k) for row_ in present]
        assert found.details["effect"][row] == pytest.approx(np.std(scores), rel=1e-3)
    assert explainer.explanations[0].intercept.keys() == {0, 2}
    assert dict(explainer.explanations[0].local_exp[2]) == pytest.approx(dict(enumerate(found.details["weights"][1])))


@pytest.mark.parametrize(("n", "count"), [(257, 63), (129, 64), (129, 50), (1001, 12), (40, 50), (2, 1)])
def test_balanced_subsets_are_balanced(n, count):
    present = balanced_subsets(n, count, seed=3)
    assert present.shape == (n, count)
    assert set(np.unique(present)) <= {0.0, 1.0}
    assert present[0].all()
    np.testing.assert_array_equal(present[2::2], 1 - present[1 : n - 1 : 2][: len(present[2::2])])  # complements
    order = 2 ** (count - 1).bit_length()
    whole = (n - 1) // (2 * order) * 2 * order
    signs = 2 * present[1 : 1 + whole].astype("float64") - 1
    if whole:  # each in half of the subsets, and of those of any other
        np.testing.assert_array_equal(signs.T @ signs, whole * np.eye(count))
        assert (signs.sum(axis=0) == 0).all()
    assert not np.array_equal(present, balanced_subsets(n, count, seed=4)) or count == 1


def test_balanced_subsets_free_the_weights_of_what_pairs_do_together():
    """A score with an effect of each superpixel and of every pair, which random subsets mix up."""
    random = np.random.default_rng(0)
    single, pair = random.normal(0, 1, 15), np.triu(random.normal(0, 0.5, (15, 15)), 1)

    def error(sampling, seed):
        subsets = {"balanced": balanced_subsets, "random": random_subsets}[sampling](65, 15, seed)
        z = 2 * subsets.astype("float64") - 1
        score = z @ single + np.einsum("ni,ij,nj->n", z, pair, z)
        weights, _ = reference.ridge(subsets, score, np.ones(65))
        return np.sqrt(np.mean((weights / 2 - single) ** 2))

    balanced, usual = (np.mean([error(sampling, seed) for seed in range(8)]) for sampling in ("balanced", "random"))
    assert balanced < 0.25 * usual


def test_what_three_superpixels_do_together_cancels_over_seeds():
    """Of 15 superpixels every three together raise the score; by itself none does anything."""
    found = []
    for seed in range(60):
        z = 2 * balanced_subsets(33, 15, seed).astype("float64")[1:] - 1
        triples = (z.sum(axis=1) ** 3 - (3 * 15 - 2) * z.sum(axis=1)) / 6  # sum over i < j < k of z_i z_j z_k
        found.append(z.T @ triples / len(z))
    found = np.array(found)
    assert np.abs(found).max() > 1  # in one design they do not
    assert abs(found.mean()) < 4 * found.mean(axis=1).std() / np.sqrt(60)


def test_lime_finds_the_superpixel_that_a_model_looks_at():
    weights = np.zeros((36, 2))
    weights[9:18, 0] = 1.0
    flat = linear_model(weights)
    image = keras.Input((6, 6, 1))
    model = keras.Model(image, flat(layers.Flatten()(image)))
    explainer = dataclasses.replace(grey_setup(400)[3], hide=0.0)
    found = kx.explain(model, np.ones((1, 6, 6, 1)), explainer, targets=0)
    np.testing.assert_allclose(found.details["weights"][0], [0, 9, 0, 0], atol=0.4)  # ridge pulls towards 0
    assert found.details["r2"][0] > 0.99


def test_lime_says_when_hiding_changes_nothing():
    net, image, _, explainer = grey_setup()
    flat = np.full_like(image, 0.5)
    with pytest.warns(kx.ExplanationWarning, match="hiding superpixels of image 0 changes the score by only"):
        found = kx.explain(net.keras(), flat[None], explainer, targets=1)
    assert found.details["effect"][0] < 1e-5
    assert np.isnan(found.details["r2"][0])  # a fit to rounding noise is none


def test_targets_of_samples_must_exist():
    with pytest.raises(kx.InputError, match="targets must be classes 0 to 2; got 0 to 7"):
        kx.explain(NET.keras(), kx.Samples(IMAGES[:2], [0, 7]), "vanilla")


def test_what_lime_hides_behind():
    image = np.random.default_rng(0).random((20, 30, 2), "float32")
    segments = (np.arange(600) // 150).reshape(20, 30).astype("int32")
    blurred = [gaussian_filter(image[..., channel], (2.0, 3.0)) for channel in range(2)]
    np.testing.assert_allclose(hidden_image(image, "blur", segments), np.stack(blurred, axis=-1), rtol=1e-5)
    means = np.array([image[segments == s].mean(axis=0) for s in range(4)])
    np.testing.assert_allclose(hidden_image(image, "mean", segments), means[segments], rtol=1e-5)
    assert (hidden_image(image, 0.25, segments) == 0.25).all()


def test_lime_says_when_its_surrogate_does_not_fit():
    """Whether the number of hidden rows is even is no sum over them."""
    image = keras.Input((4, 4, 1))
    z = 5 * keras.ops.prod(2 * keras.ops.mean(image, axis=(2, 3)) - 1, axis=1, keepdims=True)
    model = keras.Model(image, layers.Softmax()(layers.Concatenate()([z, -z])))
    rows = kx.Lime(200, lambda x: np.arange(16).reshape(4, 4) // 4, hide=0.0)
    words = r"the surrogate of image 0 explains little of the score \(R² 0\.\d\d\)"
    with pytest.warns(kx.ExplanationWarning, match=words):
        found = kx.explain(model, np.ones((1, 4, 4, 1)), rows, targets=0)
    assert found.details["r2"][0] < 0.5


@pytest.mark.parametrize("side", [64, 128, 299])
def test_the_watershed_follows_edges_alike_in_small_and_large_images(side, random):
    """A bright disc: no superpixel lies on both sides of its border, and there are about as many as were asked for."""
    y, x = np.mgrid[0:side, 0:side] / side
    disc = np.hypot(y - 0.5, x - 0.45) < 0.27
    image = (0.2 + 0.6 * disc + 0.02 * random.random((side, side)))[..., None]
    segments = kx.Lime()._segments(image, (0, 1))
    inside = np.array([disc[segments == s].mean() for s in range(segments.max() + 1)])
    assert 40 <= len(inside) <= 60
    mixed = np.minimum(inside, 1 - inside) > 0.1
    grid = (np.arange(side) * 7 // side)[:, None] * 7 + np.arange(side) * 7 // side
    in_grid = np.array([disc[grid == s].mean() for s in range(49)])
    assert mixed.sum() < 0.75 * (np.minimum(in_grid, 1 - in_grid) > 0.1).sum()
    assert all(label(segments == s)[1] == 1 for s in range(segments.max() + 1))
    assert kx.Lime(segments=120)._segments(image, (0, 1)).max() > 80


def test_superpixels_of_a_picture_do_not_depend_on_its_size():
    """The same scene with 64 and with 256 pixels a side; without the rule for compactness the index is below 0.89."""
    y, x = np.mgrid[0:256, 0:256] / 256
    scene = 0.2 + 0.6 * (np.hypot(y - 0.5, x - 0.45) < 0.27) + 0.1 * np.sin(9 * x)
    small = scene.reshape(64, 4, 64, 4).mean(axis=(1, 3))
    one, other = (kx.Lime()._segments(image[..., None], (0, 1)) for image in (small, scene))
    assert adjusted_rand_score(one.ravel(), other[2::4, 2::4].ravel()) > 0.92


def test_lime_takes_grey_images_and_makes_superpixels():
    random = np.random.default_rng(0)
    image = (np.kron(random.random((4, 4)), np.ones((8, 8))) + 0.1 * random.random((32, 32)))[..., None].astype(
        "float32"
    )
    for segmentation in ("watershed", "quickshift", "slic"):
        found = kx.explain(small_cnn(size=32), image[None], kx.Lime(20, segmentation), targets=0)
        segments = found.details["segments"][0]
        assert set(np.unique(segments)) == set(range(segments.max() + 1))
        assert segments.max() >= 4
        assert np.abs(found.values).max() > 0


@pytest.mark.parametrize(
    ("explainer", "option"),
    [
        (kx.Saliency(), {"rule": "guided"}),
        (kx.Saliency(), {"smooth": 5}),
        (kx.Saliency(smooth=5), {"noise": 0.5}),
        (kx.Saliency(smooth=5), {"seed": 1}),
        (kx.IntegratedGradients(3), {"steps": 4}),
        (kx.IntegratedGradients(3), {"baseline": 0.5}),
        (kx.IntegratedGradients(3), {"tolerance": 1e-3}),
        (kx.GradientShap(samples=8), {"samples": 9}),
        (kx.GradientShap(samples=8), {"seed": 1}),
        (kx.GradientShap(samples=8), {"background": np.random.default_rng(3).random((2, 16, 16, 1))}),
        (kx.Lime(20), {"samples": 30}),
        (kx.Lime(20), {"segmentation": "slic"}),
        (kx.Lime(20), {"segmentation": "quickshift"}),
        (kx.Lime(20), {"segments": 20}),
        (kx.Lime(20, "slic"), {"segments": 8}),
        (kx.Lime(20), {"hide": "mean"}),
        (kx.Lime(20), {"hide": 0.3}),
        (kx.Lime(20), {"sampling": "random"}),
        (kx.Lime(20), {"seed": 1}),
    ],
    ids=lambda value: str(value)[:40],
)
@pytest.mark.filterwarnings("ignore:LIME. the surrogate", "ignore:LIME. image")
def test_every_option_changes_a_number_and_the_same_seed_gives_the_same_bits(explainer, option):
    scorer = kx.Scorer(small_cnn(size=16))
    images = np.random.default_rng(2).random((2, 16, 16, 1), "float32")
    samples = kx.Samples(images, [0, 1], background=np.random.default_rng(4).random((3, 16, 16, 1)))
    one, again = kx.explain(scorer, samples, explainer), kx.explain(scorer, samples, dataclasses.replace(explainer))
    other = kx.explain(scorer, samples, dataclasses.replace(explainer, **option))
    np.testing.assert_array_equal(one.values, again.values)
    assert np.abs(one.values - other.values).max() > 1e-6


def test_all_targets_of_an_image_agree_with_one_at_a_time():
    scorer = kx.Scorer(small_cnn(classes=11))
    images = np.random.default_rng(2).random((2, 8, 8, 1), "float32")
    samples = kx.Samples(images, [0, 0], background=images[::-1])
    for method in ("guided", "integrated_gradients", "gradient_shap"):
        together = kx.explain(scorer, samples, method, targets="all")
        alone = kx.explain(scorer, samples, method, targets=7)
        assert together.targets.tolist() == list(range(11)) * 2
        np.testing.assert_allclose(together.values[together.targets == 7], alone.values, rtol=1e-4, atol=1e-6)


def test_targets_by_every_spelling():
    model = kx.Scorer(linear_model(np.random.default_rng(0).normal(0, 1, (4, 3))))
    x = np.random.default_rng(1).normal(0, 1, (2, 4))
    predicted = model.logits(x.astype("float32")).argmax(axis=1)
    assert kx.explain(model, x, "vanilla").targets.tolist() == predicted.tolist()
    assert kx.explain(model, x, "vanilla", targets=2).targets.tolist() == [2, 2]
    assert kx.explain(model, x, "vanilla", targets=[0, 2]).targets.tolist() == [0, 2, 0, 2]
    assert kx.explain(model, x, "vanilla", targets=[[0], [2]]).targets.tolist() == [0, 2]
    for wrong, message in (
        ("some", "'all'"),
        (3, "classes 0 to 2; got 3"),
        ([[0]], "1 rows for 2"),
        ([0.5], "numbers"),
    ):
        with pytest.raises(kx.InputError, match=message):
            kx.explain(model, x, "vanilla", targets=wrong)


def counted(model):
    """A layer in front of a model that notes how many images each pass carries."""
    passes = []

    class Count(layers.Layer):
        def compute_output_shape(self, shape):
            return shape

        def call(self, x):
            note(len(x) if BACKEND == "torch" else ops.shape(x)[0])
            return x

    def note(n):
        if BACKEND == "tensorflow":
            keras.src.backend.tensorflow.core.tf.py_function(lambda n: passes.append(int(n)), [n], [])
        elif BACKEND == "jax":
            keras.src.backend.jax.core.jax.debug.callback(passes.append, n)
        else:
            passes.append(n)

    image = keras.Input((8, 8, 1))
    return keras.Model(image, model(Count()(image))), passes


def test_points_are_batched_evenly_and_targets_share_a_pass():
    model, passes = counted(small_cnn())
    scorer = kx.Scorer(model, batch_size=16)
    images = np.random.default_rng(0).random((1, 8, 8, 1), "float32")
    kx.explain(scorer, images, kx.IntegratedGradients(50), targets=0)
    passes.clear()
    kx.explain(scorer, images, kx.IntegratedGradients(50), targets="all")
    # Two single images for the scores, then ceil(50 / 16) even chunks, whatever the number of targets. On JAX they are
    # filled up.
    assert sorted(map(int, passes)) == ([8, 8, 16, 16, 16, 16] if BACKEND == "jax" else [1, 1, 12, 12, 13, 13])


@traced_only
def test_no_retrace_for_other_images_targets_or_numbers_of_them():
    scorer = kx.Scorer(small_cnn())
    random = np.random.default_rng(0)
    background = random.random((3, 8, 8, 1))
    methods = ["vanilla", "guided", "integrated_gradients", kx.Lime(20, lambda x: np.arange(64).reshape(8, 8) // 8)]
    methods.append(kx.GradientShap(background, 10))
    counts = []
    for n in (2, 5, 1):
        for method in methods:
            kx.explain(scorer, random.random((n, 8, 8, 1), "float32"), method, targets=n % 3)
        counts.append(scorer.traces)
    assert counts[0] == counts[1] == counts[2]


@pytest.mark.parametrize(("told", "memory", "expected"), [(None, 4.5e9, 128), (None, 4.6e7, 86), (1.84e8, 0, 86)])
def test_a_chunk_is_as_large_as_what_one_image_takes_in_all_layers_allows(monkeypatch, told, memory, expected):
    """A layer gives 320 x 320 numbers of 4 bytes, and there is little beside it: in 46 MB there is room for 110."""
    monkeypatch.setattr(gradients, "_CHUNK_MEMORY", memory)
    monkeypatch.setattr(gradients.backend(), "memory", lambda: told)
    grown = keras.Sequential([keras.Input((8, 8, 1)), layers.UpSampling2D(40), layers.AveragePooling2D(40)])
    model, passes = counted(keras.Sequential([grown, *small_cnn().layers]))
    kx.Scorer(model).logits(np.zeros((256, 8, 8, 1), "float32"))
    evenly = 88 if BACKEND == "jax" and expected == 86 else expected  # filled up to a multiple of 8
    assert max(map(int, passes)) == evenly


@pytest.mark.parametrize("method", [kx.GradientShap(IMAGES, 11, seed=2), kx.Saliency(smooth=11)])
def test_what_is_made_chunk_by_chunk_does_not_depend_on_the_chunks(method):
    """Background images and noise are never whole in memory."""
    few, many = (kx.explain(kx.Scorer(NET.keras(), batch_size=n), IMAGES, method, targets=1) for n in (3, 100))
    np.testing.assert_allclose(few.values, many.values, rtol=1e-4, atol=1e-5)


def test_a_chunk_that_does_not_fit_is_halved():
    class Small(layers.Layer):
        def compute_output_shape(self, shape):
            return shape

        def call(self, x):
            """The image, and with more than five of them more memory than any machine has."""
            n = ops.shape(x)[0]
            above = ops.cast(ops.relu(n - 5), "int64") if BACKEND == "tensorflow" else max(n - 5, 0)
            return x + 0 * ops.sum(ops.cumsum(ops.broadcast_to(ops.mean(x), (above * 2**46 + 1,))))

    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 1))
    model = keras.Model(image, small_cnn()(Small()(image)))
    images = np.random.default_rng(0).random((2, 8, 8, 1), "float32")
    scorer = kx.Scorer(model, batch_size=16)
    found = kx.explain(scorer, images, kx.IntegratedGradients(20), targets=0)
    assert scorer.batch_size == (4 if BACKEND == "jax" else 5)  # 16 -> 10 -> 5, filled up 16 -> 8 -> 4
    expected = kx.explain(small_cnn(), images, kx.IntegratedGradients(20), targets=0)
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x: kx.explain(m, x, "gradcam2"), "There is no method 'gradcam2'; known are vanilla, guided"),
        (lambda m, x: kx.explain(m, x, "vanilla", steps=3), r"options \['steps'\] do not fit 'vanilla'"),
        (lambda m, x: kx.explain(m, x, kx.Saliency), "object with explain"),
        (lambda m, x: kx.explain(m, x, kx.Saliency(), smooth=3), "belong into the constructor of Saliency"),
        (lambda m, x: kx.explain(m, x[:0], "vanilla"), "no images"),
        (lambda m, x: kx.explain(m, x[:, :5], "vanilla"), r"shape \(5, 8, 1\); .* takes \(8, 8, 1\)"),
        (lambda m, x: kx.explain(m, x * np.nan, "vanilla"), "NaN"),
        (
            lambda m, x: kx.explain(m, np.rint(x * 255), "vanilla"),
            "images go from . to 25., as raw pixels do, .*Rescaling",
        ),
        (lambda m, x: kx.explain(m, x * 255, "vanilla", value_range=(0, 1)), r"lie in .*value_range=\(0, 1\)"),
        (lambda m, x: kx.explain(m, x, "gradient_shap"), "needs a background"),
        (lambda m, x: kx.explain(m, x, kx.GradientShap(x / 255)), "background lies in .*the samples in"),
        (lambda m, x: kx.explain(m, x, kx.GradientShap(x[:, :4])), r"background has images of shape \(4, 8, 1\)"),
        (lambda m, x: kx.explain(m, x, kx.IntegratedGradients(baseline=np.zeros(3))), r"baseline has shape \(3,\)"),
        (lambda m, x: kx.IntegratedGradients(0), "steps must be at least 1"),
        (lambda m, x: kx.IntegratedGradients(tolerance=0), "tolerance must be positive"),
        (lambda m, x: kx.GradientShap(samples=1), "samples must be at least 2"),
        (lambda m, x: kx.Lime(samples=1), "samples must be a whole number, at least 2"),
        (lambda m, x: kx.Lime(segments=1), "segments must be a whole number, at least 2"),
        (lambda m, x: kx.Lime(hide="black"), "hide must be"),
        (lambda m, x: kx.Lime(sampling="paired"), "sampling must be 'balanced' or 'random'; got 'paired'"),
        (lambda m, x: kx.Lime(segmentation="voronoi"), "segmentation must be"),
        (lambda m, x: kx.explain(m, x, kx.Lime(segmentation=lambda i: i[:3, :3, 0])), "segmentation gave shape"),
        (lambda m, x: kx.Saliency(smooth=-1), "must not be negative"),
    ],
)
def test_bad_input_is_named(call, message):
    images = np.random.default_rng(0).random((2, 8, 8, 1), "float32")
    with pytest.raises(kx.InputError, match=message):
        call(small_cnn(), images)


def test_raw_pixels_are_accepted_where_the_model_scales_them_or_the_user_says_so():
    raw = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1)).astype("uint8")
    scaling = keras.Sequential([keras.Input((8, 8, 1)), layers.Rescaling(1 / 255), small_cnn()])
    inside = kx.explain(scaling, raw, "vanilla", targets=0)
    outside = kx.explain(small_cnn(), raw / np.float32(255), "vanilla", targets=0)
    np.testing.assert_allclose(inside.values * 255, outside.values, rtol=1e-3, atol=1e-5)
    stated = kx.explain(small_cnn(), raw, "vanilla", targets=0, value_range=(0, 255))
    assert np.abs(stated.score).max() > 10


def test_an_overflowing_map_is_an_error_not_a_picture():
    with pytest.raises(kx.InputError, match="mine maps are not finite"):
        kx.Attribution("mine", np.full((1, 2), np.inf), [0], [0], [1.0])


def test_a_users_own_explainer_is_accepted():
    class Ones:
        def explain(self, scorer, samples):
            return kx.Attribution("ones", np.ones_like(samples.images), samples.targets[:, 0], samples.rows, [1.0])

    assert kx.explain(linear_model(np.eye(3)), np.ones((1, 3)), Ones()).values.sum() == 3


def test_perturbed_images_show_what_is_present():
    segments = np.array([[0, 1], [2, 2]], "int32")
    image, hidden = np.ones((2, 2, 1), "float32"), np.zeros((2, 2, 1), "float32")
    present = np.array([[1, 0, 1], [0, 1, 0]], "float32")
    tensors = map(ops.convert_to_tensor, (present, segments, image, hidden))
    shown = ops.convert_to_numpy(partly_hidden(*tensors))[..., 0]
    np.testing.assert_array_equal(shown, [[[1, 0], [1, 1]], [[0, 1], [0, 0]]])
