"""Class activation maps: against the formulas written out, on flat and nested models, and against other libraries."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_explain as kx
from keras_explain.explainers.cam import enlarged
from tests import reference
from tests.conftest import BACKEND, linear_model, outputs, small_cnn, tensorflow_only

NET = reference.Cnn()
IMAGES = np.random.default_rng(3).normal(0.3, 1, (3, 7, 6, 2)).astype("float32")
TARGETS = np.array([[0, 2], [1, 0], [2, 1]])


def flat():
    return keras.Sequential([keras.Input(NET.shape), *NET.layers()])


def nested():
    convolution, *head = NET.layers()
    image = keras.Input(NET.shape)
    body = keras.Sequential([keras.Input(NET.shape), convolution, layers.Dropout(0.5, name="off")], name="body")
    x = body(image)
    for layer in head:
        x = layer(x)
    return keras.Model(image, x)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.own = NET.layers()

    def call(self, x, training=False):
        for layer in self.own:
            x = layer(x)
        return x


def halved():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        return flat()
    finally:
        keras.config.set_dtype_policy("float32")


def subclassed():
    model = Subclassed()
    model(IMAGES)
    return model


@pytest.mark.parametrize("build", [flat, nested, subclassed])
@pytest.mark.parametrize(
    ("method", "twin"), [("grad_cam", reference.grad_cam), ("grad_cam_plus_plus", reference.grad_cam_plus_plus)]
)
def test_maps_are_the_formula_written_out(build, method, twin):
    found = kx.explain(NET.set_weights(build()), IMAGES, method, targets=TARGETS)
    for values, small, i, target, score in zip(
        found.values, found.details["map"], found.rows, found.targets, found.score, strict=True
    ):
        expected = twin(NET.maps(IMAGES[i].astype("float64")), NET.head[..., target])
        np.testing.assert_allclose(small, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(values.sum(axis=-1), reference.enlarged(expected, (7, 6)), rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(values[..., 0], values[..., 1])
        assert score == pytest.approx(NET.score(IMAGES[i].astype("float64"), target), rel=1e-4, abs=1e-4)
    assert (found.details["map"].max(axis=(1, 2)) > 0).sum() >= 4


def test_behind_a_mean_over_positions_it_is_the_class_activation_map():
    """Zhou et al. 2016: the weights of the class in the head, over the number of positions."""
    image = keras.Input((8, 8, 1))
    maps = layers.Conv2D(5, 3)(image)
    model = keras.Model(image, layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling2D()(maps)))
    x = np.random.default_rng(0).random((2, 8, 8, 1), "float32")
    kernel = model.layers[-1].get_weights()[0]
    own = outputs(keras.Model(image, maps), x)
    found = kx.explain(model, x, "grad_cam", targets=1)
    np.testing.assert_allclose(found.details["map"], np.maximum(own @ kernel[:, 1], 0) / 36, rtol=1e-4, atol=1e-6)


def test_the_last_map_is_taken_and_another_by_name_or_path():
    model = NET.set_weights(nested())
    last, named, path = (
        kx.explain(model, IMAGES, kx.GradCam(layer), targets=0) for layer in (None, "convolution", "body/convolution")
    )
    assert last.settings["layer_found"] == "body/off"
    assert named.settings["layer_found"] == path.settings["layer_found"] == "body/convolution"
    np.testing.assert_array_equal(last.values, named.values)
    cnn = small_cnn()
    images = np.random.default_rng(0).random((2, 8, 8, 1), "float32")
    first, second = (kx.explain(cnn, images, kx.GradCam(name), targets=0) for name in (cnn.layers[0].name, None))
    assert first.details["map"].shape == (2, 6, 6)
    assert second.details["map"].shape == (2, 4, 4)


def test_a_volume_has_a_map_with_three_axes(random):
    image = keras.Input((6, 5, 4, 1))
    maps = layers.Conv3D(3, 2)(image)
    model = keras.Model(image, layers.Dense(2, activation="softmax")(layers.Flatten()(maps)))
    x = random.random((2, 6, 5, 4, 1), "float32")
    own = outputs(keras.Model(image, maps), x).astype("float64")
    gradients = model.layers[-1].get_weights()[0][:, 1].reshape(5, 4, 3, 3).astype("float64")
    expected = np.maximum((own * gradients.mean(axis=(0, 1, 2))).sum(axis=-1), 0)
    found = kx.explain(model, x, "grad_cam", targets=1)
    np.testing.assert_allclose(found.details["map"], expected, rtol=1e-4, atol=1e-6)
    whole = np.stack([reference.enlarged(cells, (6, 5, 4)) for cells in expected])
    np.testing.assert_allclose(found.values[..., 0], whole, rtol=1e-4, atol=1e-6)


def test_a_tapped_layer_is_left_as_it_was():
    model = flat()
    before = {layer.name: dict(vars(layer)) for layer in model.layers}
    kx.explain(model, IMAGES, "grad_cam", targets=0)
    assert all("call" not in vars(layer) for layer in model.layers)
    assert {layer.name: vars(layer).keys() for layer in model.layers} == {k: v.keys() for k, v in before.items()}


@pytest.mark.parametrize(
    ("model", "layer", "message"),
    [
        (lambda: linear_model(np.eye(3)), None, "no layer whose output is a map"),
        (flat, "top", "'top' fits 0 of .*convolution, flatten"),
        (flat, "head", "gives no map of the image: 0 axes"),
        (flat, "volution", "'volution' fits 0 of"),
    ],
)
def test_layers_without_a_map_are_named(model, layer, message):
    built = model()
    images = np.ones((1, 3), "float32") if built.input_shape == (None, 3) else IMAGES
    with pytest.raises(kx.InputError, match=message):
        kx.explain(built, images, kx.GradCam(layer), targets=0)


def test_tokens_by_heads_of_an_attention_layer_are_no_map():
    """A small vision transformer, whose attention layers come after its patches."""
    image = keras.Input((32, 32, 1))
    patches = layers.Conv2D(8, 4, strides=4, name="patches")(image)
    tokens = layers.Reshape((64, 8))(patches)
    attended = layers.MultiHeadAttention(2, 4, name="attention")(tokens, tokens)
    model = keras.Model(image, layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling1D()(attended)))
    x = np.random.default_rng(0).random((1, 32, 32, 1), "float32")
    found = kx.explain(model, x, "grad_cam", targets=0)
    assert found.settings["layer_found"] == "patches"
    assert found.unit == "logit > 0, map 8 × 8"


def test_a_layer_that_is_called_twice_has_no_one_output():
    image = keras.Input(NET.shape)
    shared = layers.Conv2D(2, 3, padding="same", name="shared")
    model = keras.Model(image, layers.Dense(3, activation="softmax")(layers.Flatten()(shared(shared(image)))))
    with pytest.raises(kx.InputError, match="'shared' is called 2 times in a pass"):
        kx.explain(model, IMAGES, "grad_cam", targets=0)


def test_two_layers_of_one_name_are_told_apart_by_path():
    image = keras.Input(NET.shape)
    x = image
    for name in ("a", "b"):
        inner = keras.Sequential([keras.Input(NET.shape), layers.Conv2D(2, 3, padding="same", name="same")], name=name)
        x = inner(x)
    model = keras.Model(image, layers.Dense(3, activation="softmax")(layers.Flatten()(x)))
    with pytest.raises(kx.InputError, match="'same' fits 2 of a/same, b/same"):
        kx.explain(model, IMAGES, kx.GradCam("same"), targets=0)
    first, second = (kx.explain(model, IMAGES, kx.GradCam(path), targets=0).values for path in ("a/same", "b/same"))
    assert np.abs(first - second).max() > 0


def two_outputs():
    """A class and, called later, a segmentation."""
    image = keras.Input((8, 8, 1))
    trunk = layers.Conv2D(4, 3, activation="relu", name="trunk")(image)
    kind = layers.Dense(3, activation="softmax", name="kind")(layers.GlobalAveragePooling2D()(trunk))
    return keras.Model(image, {"kind": kind, "mask": layers.Conv2D(1, 3, name="mask")(trunk)})


def test_layers_of_other_outputs_are_left_out_and_refused_by_name(random):
    x = random.random((1, 8, 8, 1), "float32")
    found = kx.explain(two_outputs(), x, "grad_cam", targets=0, output="kind")
    assert found.settings["layer_found"] == "trunk"
    with pytest.raises(kx.InputError, match="Layer 'mask' does not lead to the explained output"):
        kx.explain(two_outputs(), x, kx.GradCam("mask"), targets=0, output="kind")


def test_a_pooled_map_of_one_position_is_none(random):
    image = keras.Input((8, 8, 1))
    pooled = layers.GlobalAveragePooling2D(keepdims=True)(layers.Conv2D(4, 3, name="last")(image))
    model = keras.Model(image, layers.Dense(3, activation="softmax")(layers.Flatten()(pooled)))
    x = random.random((1, 8, 8, 1), "float32")
    assert kx.explain(model, x, "grad_cam", targets=0).settings["layer_found"] == "last"


def test_paths_go_as_deep_as_models_do(random):
    image = keras.Input(NET.shape)
    inner = keras.Sequential([keras.Input(NET.shape), layers.Conv2D(2, 3, name="deep")], name="inner")
    outer = keras.Sequential([keras.Input(NET.shape), inner], name="outer")
    model = keras.Model(image, layers.Dense(3, activation="softmax")(layers.Flatten()(outer(image))))
    found = kx.explain(model, IMAGES, kx.GradCam("inner/deep"), targets=0)
    assert found.settings == {"layer": "inner/deep", "layer_found": "outer/inner/deep"}


def test_layers_that_give_several_tensors_or_have_channels_first_are_refused(random):
    class Two(layers.Layer):
        def call(self, x):
            return x, 2 * x

    image = keras.Input(NET.shape)
    x, y = Two(name="two")(layers.Conv2D(2, 3)(image))
    model = keras.Model(image, layers.Dense(3, activation="softmax")(layers.Flatten()(x + y)))
    with pytest.raises(kx.InputError, match="Layer 'two' gives a tuple, not one tensor"):
        kx.explain(model, IMAGES, kx.GradCam("two"), targets=0)
    first = layers.MaxPooling2D(2, data_format="channels_first", name="turned")(image)
    model = keras.Model(image, layers.Dense(3, activation="softmax")(layers.Flatten()(first)))
    for method in ("grad_cam", "occlusion", "rise"):
        with pytest.raises(kx.InputError, match="Layer 'turned' has its channels first"):
            kx.explain(model, IMAGES, method, targets=0)


def test_metrics_know_the_explainer_that_made_the_maps_from_another():
    model, samples = NET.set_weights(nested()), kx.Samples(IMAGES, [0, 1, 2])
    for made, other in ((kx.GradCam("convolution"), kx.GradCam()), (kx.Occlusion(2, 1), kx.Occlusion([3, 3], 1))):
        found = kx.explain(model, samples, made)
        measured = kx.metrics.evaluate(model, samples, found, ["sensitivity"], explainer=made)
        assert np.isfinite(list(measured.values())).all()
        with pytest.raises(kx.InputError, match="the maps were made with"):
            kx.metrics.evaluate(model, samples, found, ["sensitivity"], explainer=other)
    again = kx.Occlusion(**found.settings)
    np.testing.assert_array_equal(kx.explain(model, samples, again).values, found.values)


def test_enlarging_keeps_a_constant_and_the_order():
    cells = np.array([[[1.0, 2.0], [3.0, 4.0]]])
    found = enlarged(cells, (6, 4))
    np.testing.assert_allclose(found[0], reference.enlarged(cells[0], (6, 4)))
    np.testing.assert_allclose(enlarged(np.full((1, 2, 3), 7.0), (5, 5)), 7.0)


@tensorflow_only
@pytest.mark.filterwarnings("ignore:(.|\n)*The structure of `inputs` doesn't match")  # it wraps the input into a list
@pytest.mark.filterwarnings("ignore:Please import `zoom`:DeprecationWarning")
def test_maps_agree_with_tf_keras_vis():
    from tf_keras_vis.gradcam import Gradcam
    from tf_keras_vis.gradcam_plus_plus import GradcamPlusPlus
    from tf_keras_vis.utils.model_modifiers import ReplaceToLinear
    from tf_keras_vis.utils.scores import CategoricalScore

    sequential = NET.set_weights(flat())
    model = keras.Model(sequential.inputs, sequential.outputs)  # it cannot modify a Sequential
    options = {"expand_cam": False, "normalize_cam": False, "penultimate_layer": "convolution"}
    expected, plus_plus = (
        peer(model, model_modifier=ReplaceToLinear())(CategoricalScore([0, 1, 2]), IMAGES, **options)
        for peer in (Gradcam, GradcamPlusPlus)
    )
    found = kx.explain(model, IMAGES, "grad_cam", targets=[[0], [1], [2]])
    np.testing.assert_allclose(found.details["map"], expected, rtol=1e-3, atol=1e-5)
    # It keeps the factor exp(z) of the paper, and normalises the alphas, which the paper does not.
    for i, z in enumerate(found.score):
        twin = reference.grad_cam_plus_plus(NET.maps(IMAGES[i].astype("float64")), NET.head[..., i], normalised=True)
        np.testing.assert_allclose(twin * np.exp(z), plus_plus[i], rtol=1e-3, atol=1e-4)


@tensorflow_only
@pytest.mark.filterwarnings("ignore:(.|\n)*The structure of `inputs` doesn't match")  # it wraps the input into a list
@pytest.mark.filterwarnings("ignore:Please import `zoom`:DeprecationWarning")
def test_score_cam_is_that_of_tf_keras_vis_on_the_logits():
    from tf_keras_vis.scorecam import Scorecam
    from tf_keras_vis.utils.scores import CategoricalScore

    model = NET.set_weights(flat())
    own = outputs(model, IMAGES)
    twin = keras.models.clone_model(model)
    NET.set_weights(twin)
    twin.layers[-1].activation = keras.activations.linear
    options = {"penultimate_layer": "convolution", "seek_penultimate_conv_layer": False, "normalize_cam": False}
    scorer = kx.Scorer(model)
    found = kx.explain(scorer, IMAGES, "score_cam", targets=TARGETS)
    assert scorer.evaluations == 3 + 6 * 4
    few = kx.explain(model, IMAGES, kx.ScoreCam(channels=2), targets=TARGETS)
    assert found.settings == {"layer": None, "layer_found": "convolution", "channels": None}
    for column in range(2):
        expected = Scorecam(twin)(CategoricalScore(TARGETS[:, column].tolist()), IMAGES, **options)
        np.testing.assert_allclose(found.values[column::2].sum(axis=-1), expected, rtol=1e-4, atol=1e-6)
    assert np.abs(found.values - few.values).max() > 1e-3
    # What `predict` traces is kept, and theirs are lists with batches of as many images as there are channels.
    assert "predict" not in vars(model)
    four = model.predict([np.concatenate([IMAGES, IMAGES[:1]])], verbose=0)
    np.testing.assert_allclose(four, np.concatenate([own, own[:1]]), rtol=1e-5)


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (nested, {}, "ScoreCam cannot reach 'body/off', a nested model or a layer in one; 'grad_cam' can"),
        (nested, {"layer": "body"}, "ScoreCam cannot reach 'body', a nested model"),
        (subclassed, {}, "is subclassed, has several outputs or one sigmoid unit, which ScoreCam .* cannot explain"),
        (lambda: small_cnn("sigmoid", 1), {}, "one sigmoid unit, which ScoreCam"),
        (flat, {"layer": "top"}, "'top' fits 0 of"),
        (flat, {"layer": "head"}, "layer 'head' gives no map of the image"),
        (flat, {"channels": 5}, "channels must be at most those of 'convolution', 4; got 5"),
        (halved, {}, "cannot enlarge the bfloat16 maps of 'convolution'"),
    ],
)
def test_score_cam_says_where_it_works(build, options, message):
    if BACKEND != "tensorflow":
        message = f"on TensorFlow alone; Keras runs on '{BACKEND}'. Use 'grad_cam'"
    model = build()
    images = np.random.default_rng(0).random((1, 8, 8, 1), "float32") if len(model.layers) > 4 else IMAGES
    with pytest.raises(kx.InputError, match=message):
        kx.explain(model, images, "score_cam", targets=0, **options)
