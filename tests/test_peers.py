"""The same question asked of independent libraries: tf-keras-vis, shap and lime."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_explain as kx
from tests.conftest import small_cnn


@pytest.fixture(scope="module")
def flat_resnet50():
    """A flat ResNet50 with random weights."""
    keras.utils.set_random_seed(0)
    return keras.applications.ResNet50(weights=None, classes=5, input_shape=(32, 32, 3))


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).random((2, 32, 32, 3), "float32")


@pytest.mark.filterwarnings("ignore:(.|\n)*The structure of `inputs` doesn't match")  # it wraps the input into a list
@pytest.mark.parametrize("rule", ["vanilla", "guided"])
def test_saliency_agrees_with_tf_keras_vis_on_resnet50(flat_resnet50, pixels, rule):
    from tf_keras_vis.saliency import Saliency
    from tf_keras_vis.utils.model_modifiers import GuidedBackpropagation, ReplaceToLinear
    from tf_keras_vis.utils.scores import CategoricalScore

    modifiers = [ReplaceToLinear()] + ([GuidedBackpropagation()] if rule == "guided" else [])
    peer = Saliency(flat_resnet50, model_modifier=modifiers, clone=True)
    expected = peer(CategoricalScore([1, 3]), pixels, keepdims=True, gradient_modifier=lambda g: g, normalize_map=False)
    found = kx.explain(flat_resnet50, pixels, rule, targets=[[1], [3]]).values
    # Float32 through 50 layers, summed in another order.
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    assert np.abs(found).max() > 0


def test_completeness_of_integrated_gradients_on_resnet50(pixels):
    keras.utils.set_random_seed(0)
    model = keras.applications.ResNet50(weights=None, classes=5, input_shape=(32, 32, 3))
    normalisations = [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]
    for layer in normalisations:
        layer.momentum = 0.5
    for _ in range(8):  # with the statistics of a new network it would be all but linear
        model(np.random.default_rng(1).random((16, 32, 32, 3), "float32"), training=True)
    for layer in normalisations:  # and with those of noise it would be chaotic
        layer.moving_variance.assign(layer.moving_variance * 10)
    few, many = (kx.explain(model, pixels, kx.IntegratedGradients(n), targets=[0, 2]) for n in (3, 64))
    print("\nrelative completeness error at 64 steps:", many.relative_completeness_error)
    assert (many.relative_completeness_error < 0.02).all()
    assert few.completeness_error.mean() > 5 * many.completeness_error.mean()


def logits_twin(model):
    """The same model without its last activation, for libraries that know nothing of heads."""
    head = model.layers[-1]
    linear = layers.Dense(head.units)
    twin = keras.Sequential([keras.Input(model.input_shape[1:]), *model.layers[:-1], linear])
    linear.set_weights(head.get_weights())
    return twin


@pytest.mark.filterwarnings("ignore:(.|\n)*The structure of `inputs` doesn't match")  # it wraps the input into a list
def test_gradient_shap_agrees_with_shap_within_the_standard_errors(random):
    import shap

    model = small_cnn(size=10, seed=4)
    background, images = random.random((6, 10, 10, 1), "float32"), random.random((2, 10, 10, 1), "float32")
    state = np.random.get_state()
    explainer = shap.GradientExplainer(logits_twin(model), background)
    expected, variance = explainer.shap_values(images, nsamples=2000, rseed=1, return_variances=True)
    np.random.set_state(state)  # shap reseeds the global generator
    found = kx.explain(model, images, kx.GradientShap(background, samples=2000), targets="all")
    ours = np.moveaxis(found.values.reshape(2, 3, 10, 10, 1), 1, -1)
    error = np.moveaxis(found.standard_error.reshape(2, 3, 10, 10, 1), 1, -1)
    # shap divides the variance of the samples by the square root of their number, not by their number.
    combined = np.sqrt(np.moveaxis(np.array(variance), 0, -1) / np.sqrt(2000) + error**2)
    z = ((ours - expected) / np.maximum(combined, 1e-12))[combined > 1e-9]
    assert np.sqrt(np.mean(z**2)) < 1.1
    assert np.abs(z).max() < 5
    assert np.abs(expected).max() > 20 * np.median(combined)


def test_to_shap_keeps_values_and_base_values(random):
    images = random.random((2, 8, 8, 1), "float32")
    found = kx.explain(small_cnn(), images, kx.GradientShap(images[::-1], samples=6), targets=[2, 0])
    explanation = found.to_shap(images)
    assert explanation.values.shape == (2, 8, 8, 1, 2)
    np.testing.assert_array_equal(explanation.values[1, ..., 0], found.values[2])
    np.testing.assert_array_equal(explanation.base_values[1], found.base_score[2:])
    np.testing.assert_array_equal(explanation.data, images)


@pytest.mark.parametrize("hide", [None, 0.25])
def test_lime_agrees_with_lime_on_the_same_perturbations(random, hide):
    from lime.lime_image import LimeImageExplainer

    model = small_cnn(size=12, channels=3, seed=2)
    scorer = kx.Scorer(model)
    image = random.random((12, 12, 3), "float32")
    segments = (np.arange(144) // 24).reshape(12, 12)
    peer = LimeImageExplainer(random_state=7).explain_instance(
        image.astype("float64"),
        lambda batch: scorer.logits(batch.astype("float32")),
        labels=(0, 1, 2),
        top_labels=None,
        hide_color=hide,
        num_samples=150,
        segmentation_fn=lambda _: segments,
        random_seed=1,
    )
    ours = kx.Lime(150, lambda _: segments, hide="mean" if hide is None else hide, seed=7)
    found = kx.explain(scorer, image[None], ours, targets="all")
    for k in range(3):
        expected = dict(peer.local_exp[k])
        np.testing.assert_allclose(found.details["weights"][k], [expected[s] for s in range(6)], rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(found.values[k].sum(axis=-1), found.details["weights"][k][segments], rtol=1e-5)
        assert ours.explanations[0].intercept[k] == pytest.approx(peer.intercept[k], rel=1e-3, abs=1e-5)
    mask = ours.explanations[0].get_image_and_mask(2, positive_only=False, num_features=3)[1]
    np.testing.assert_array_equal(mask, peer.get_image_and_mask(2, positive_only=False, num_features=3)[1])
