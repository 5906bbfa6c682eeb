"""The same question asked of independent libraries: tf-keras-vis, shap, lime and captum."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_explain as kx
from tests.conftest import BACKEND, small_cnn, tensorflow_only


@pytest.fixture(scope="module")
def flat_resnet50():
    """A flat ResNet50 with random weights."""
    keras.utils.set_random_seed(0)
    return keras.applications.ResNet50(weights=None, classes=5, input_shape=(32, 32, 3))


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).random((2, 32, 32, 3), "float32")


@tensorflow_only
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
    random = np.random.default_rng(2)
    for kernel in (variable for variable in model.trainable_variables if len(variable.shape) > 1):
        kernel.assign(random.normal(0, 1.4 / np.sqrt(np.prod(kernel.shape[:-1])), kernel.shape))
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


@tensorflow_only
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
    ours = kx.Lime(150, lambda _: segments, hide="mean" if hide is None else hide, sampling="random", seed=7)
    found = kx.explain(scorer, image[None], ours, targets="all")
    for k in range(3):
        expected = dict(peer.local_exp[k])
        np.testing.assert_allclose(found.details["weights"][k], [expected[s] for s in range(6)], rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(found.values[k].sum(axis=-1), found.details["weights"][k][segments], rtol=1e-5)
        assert ours.explanations[0].intercept[k] == pytest.approx(peer.intercept[k], rel=1e-3, abs=1e-5)
    mask = ours.explanations[0].get_image_and_mask(2, positive_only=False, num_features=3)[1]
    np.testing.assert_array_equal(mask, peer.get_image_and_mask(2, positive_only=False, num_features=3)[1])


def torch_twin(model):
    """`small_cnn` as PyTorch alone has it, channels first, without its softmax."""
    import torch

    class Twin(torch.nn.Module):
        def __init__(self):
            super().__init__()
            convolutions = [layer for layer in model.layers if isinstance(layer, layers.Conv2D)]
            self.first, self.second = (torch.nn.Conv2d(layer.input.shape[-1], 6, 3) for layer in convolutions)
            self.relu1, self.relu2 = torch.nn.ReLU(), torch.nn.ReLU()
            kernel, bias = (torch.tensor(w) for w in model.layers[-1].get_weights())
            self.dense = torch.nn.Linear(*kernel.shape)
            with torch.no_grad():
                for own, layer in zip((self.first, self.second), convolutions, strict=True):
                    own.weight.copy_(torch.tensor(layer.get_weights()[0]).permute(3, 2, 0, 1))
                    own.bias.copy_(torch.tensor(layer.get_weights()[1]))
                self.dense.weight.copy_(kernel.T)
                self.dense.bias.copy_(bias)

        def forward(self, x):
            maps = self.relu2(self.second(self.relu1(self.first(x))))
            return self.dense(maps.permute(0, 2, 3, 1).flatten(1))

    return Twin().cpu().eval()


@pytest.mark.skipif(BACKEND != "torch", reason="captum explains modules of PyTorch")
@pytest.mark.filterwarnings("ignore:Setting (backward|forward) hooks on ReLU:UserWarning")
@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients:UserWarning")
def test_methods_agree_with_captum(random):
    import torch
    from captum import attr

    model = small_cnn(size=10, channels=2, seed=3)
    twin = torch_twin(model)
    images, targets = random.random((2, 10, 10, 2), "float32"), [1, 2]
    x, target = torch.tensor(images).permute(0, 3, 1, 2), torch.tensor(targets)
    hidden = torch.full_like(x, 0.25)
    window = {"sliding_window_shapes": (2, 3, 3), "strides": (2, 1, 1)}
    expected = {
        "vanilla": attr.Saliency(twin).attribute(x, target=target, abs=False),
        "guided": attr.GuidedBackprop(twin).attribute(x, target=target),
        "rectified": attr.Deconvolution(twin).attribute(x, target=target),
        kx.IntegratedGradients(32): attr.IntegratedGradients(twin).attribute(x, hidden * 0, target=target, n_steps=32),
        kx.Occlusion(3, 1, hide=0.25): attr.Occlusion(twin).attribute(x, baselines=hidden, target=target, **window),
    }
    for method, theirs in expected.items():
        found = kx.explain(model, images, method, targets=[[t] for t in targets]).values
        theirs = theirs.detach().permute(0, 2, 3, 1).numpy()
        if isinstance(method, kx.Occlusion):  # it gives the whole fall to each channel
            found = np.repeat(found.sum(axis=-1, keepdims=True), 2, axis=-1)
        np.testing.assert_allclose(found, theirs, rtol=1e-3, atol=1e-4 * np.abs(theirs).max(), err_msg=str(method))
    maps = attr.LayerGradCam(twin, twin.relu2).attribute(x, target=target, relu_attributions=True)
    found = kx.explain(model, images, "grad_cam", targets=[[t] for t in targets]).details["map"]
    np.testing.assert_allclose(found, maps.detach().numpy()[:, 0], rtol=1e-3, atol=1e-5)


@pytest.mark.skipif(BACKEND != "torch", reason="captum explains modules of PyTorch")
@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients:UserWarning")
def test_gradient_shap_agrees_with_captum_within_the_standard_errors(random):
    import torch
    from captum import attr

    model = small_cnn(size=8, seed=5)
    background, image = random.random((6, 8, 8, 1), "float32"), random.random((1, 8, 8, 1), "float32")
    found = kx.explain(model, image, kx.GradientShap(background, samples=3000), targets=1)
    first = torch.tensor(image).permute(0, 3, 1, 2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        np_state = np.random.get_state()
        np.random.seed(0)  # captum draws its baselines and coefficients from here
        theirs = attr.GradientShap(torch_twin(model)).attribute(
            first, torch.tensor(background).permute(0, 3, 1, 2), n_samples=3000, stdevs=0.0, target=1
        )
        np.random.set_state(np_state)
    z = (found.values[0, ..., 0] - theirs.detach().numpy()[0, 0]) / (found.standard_error[0, ..., 0] * np.sqrt(2))
    assert np.sqrt(np.mean(z**2)) < 1.3
    assert np.abs(found.values).max() > 20 * np.median(found.standard_error)
