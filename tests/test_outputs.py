"""The explained scalar: the logit of the class, on the live model, for every kind of head."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_explain as kx
from keras_explain.activations import sites
from keras_explain.rules import relu_replacements
from tests.conftest import BACKEND, outputs, small_cnn

IMAGES = np.random.default_rng(1).random((5, 8, 8, 1), "float32")


def features(image):
    x = layers.Conv2D(4, 3, activation="relu")(image)
    return layers.Flatten()(x)


def dense_softmax():
    image = keras.Input((8, 8, 1))
    return keras.Model(image, layers.Dense(3, activation="softmax")(features(image)))


def separate_softmax():
    image = keras.Input((8, 8, 1))
    return keras.Model(image, layers.Softmax()(layers.Dense(3)(features(image))))


def separate_activation():
    image = keras.Input((8, 8, 1))
    return keras.Model(image, layers.Activation("softmax")(layers.Dense(3)(features(image))))


def operation_softmax():
    image = keras.Input((8, 8, 1))
    return keras.Model(image, keras.ops.softmax(layers.Dense(3)(features(image))))


def lambda_activation():
    image = keras.Input((8, 8, 1))
    return keras.Model(image, layers.Dense(3, activation=lambda z: keras.ops.softmax(z))(features(image)))


def linear_then_identity():
    image = keras.Input((8, 8, 1))
    scores = layers.Dense(3, activation="softmax")(features(image))
    return keras.Model(image, layers.Activation("linear")(scores))


def multi_label():
    image = keras.Input((8, 8, 1))
    return keras.Model(image, layers.Dense(3, activation="sigmoid")(features(image)))


def from_logits():
    image = keras.Input((8, 8, 1))
    return keras.Model(image, layers.Dense(3)(features(image)))


def nested_body():
    inner = keras.Input((8, 8, 1))
    body = keras.Model(inner, layers.Conv2D(4, 3, activation="relu")(inner), name="body")
    image = keras.Input((8, 8, 1))
    return keras.Model(image, layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling2D()(body(image))))


def nested_head():
    inner = keras.Input((8, 8, 1))
    whole = keras.Model(inner, layers.Dense(3, activation="softmax")(features(inner)), name="whole")
    image = keras.Input((8, 8, 1))
    return keras.Model(image, whole(layers.Rescaling(2.0)(image)))


def sequential():
    return small_cnn()


def sequential_in_sequential():
    return keras.Sequential([keras.Input((8, 8, 1)), layers.Rescaling(0.5), small_cnn()])


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.body = layers.Conv2D(4, 3, activation="relu")
        self.head = layers.Dense(3, activation="softmax")

    def call(self, x, training=False):
        return self.head(layers.Flatten()(self.body(x)))


def subclassed():
    model = Subclassed()
    model(IMAGES[:1])
    return model


HEADS = [
    dense_softmax,
    separate_softmax,
    separate_activation,
    operation_softmax,
    lambda_activation,
    linear_then_identity,
    multi_label,
    from_logits,
    nested_body,
    nested_head,
    sequential,
    sequential_in_sequential,
    subclassed,
]


def penultimate_logits(model, images, weights):
    """The logits by hand: what enters the last Dense layer, times its weights."""
    seen = []
    dense = [layer for layer in model._flatten_layers() if isinstance(layer, layers.Dense)][-1]
    original = dense.call

    def spy(x, *args, **kwargs):
        seen.append(ops.convert_to_numpy(x))
        return original(x, *args, **kwargs)

    vars(dense)["call"] = spy
    model(images, training=False)
    del vars(dense)["call"]
    return seen[-1] @ weights[0] + weights[1]


@pytest.mark.parametrize("build", HEADS)
def test_logits_are_those_of_a_model_without_the_activation(build):
    keras.utils.set_random_seed(3)
    model = build()
    dense = [layer for layer in model._flatten_layers() if isinstance(layer, layers.Dense)][-1]
    expected = penultimate_logits(model, IMAGES, dense.get_weights())
    own = outputs(model, IMAGES)
    np.testing.assert_allclose(kx.Scorer(model).logits(IMAGES), expected, rtol=1e-5, atol=1e-5)
    if build is not from_logits:
        assert np.abs(expected - own).max() > 0.05  # or the test could not tell logits from probabilities
    np.testing.assert_array_equal(outputs(model, IMAGES), own)


@pytest.mark.parametrize("build", HEADS)
def test_the_model_is_left_as_it_was(build):
    model = build()
    model(IMAGES)
    activations = [(site.owner, site.attribute) for site in sites(model)]
    attributes = [(owner, dict(vars(owner))) for owner, _ in activations]
    nodes = [len(layer._inbound_nodes) for layer in model._flatten_layers()]
    weights = [np.array(w) for w in model.get_weights()]
    kx.explain(model, IMAGES, "guided", targets=1)
    assert [(site.owner, site.attribute) for site in sites(model)] == activations
    for owner, before in attributes:
        assert vars(owner).keys() == before.keys()
        assert vars(owner).get("activation") is before.get("activation")
    assert [len(layer._inbound_nodes) for layer in model._flatten_layers()] == nodes
    for now, before in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(now, before)


def test_losses_that_layers_add_are_those_of_before():
    image = keras.Input((8, 8, 1))
    regular = layers.Dense(4, activation="relu", activity_regularizer="l2")(layers.Flatten()(image))
    model = keras.Model(image, layers.Dense(3, activation="softmax")(regular))
    model(IMAGES)
    before = [float(ops.convert_to_numpy(loss)) for loss in model.losses]
    kx.explain(model, IMAGES[:2], "vanilla", targets=0)
    assert [
        float(ops.convert_to_numpy(loss)) for loss in model.losses
    ] == before  # and no tensor of a finished trace among them


def test_one_sigmoid_unit_is_two_classes():
    model = small_cnn("sigmoid", classes=1)
    linear = small_cnn(None, classes=1)
    linear.set_weights(model.get_weights())
    z = outputs(linear, IMAGES)
    scorer = kx.Scorer(model)
    logits = scorer.logits(IMAGES)
    np.testing.assert_allclose(logits, np.concatenate([-z, z], axis=1), rtol=1e-5, atol=1e-6)
    probabilities = scorer.head(IMAGES).probabilities(logits)
    np.testing.assert_allclose(probabilities[:, 1], outputs(model, IMAGES)[:, 0], atol=1e-6)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-12)


def test_a_compiled_binary_logit_is_two_classes_too():
    model = small_cnn(None, classes=1)
    model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
    logits = kx.Scorer(model).logits(IMAGES)
    z = outputs(model, IMAGES)
    np.testing.assert_allclose(logits, np.concatenate([-z, z], axis=1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", ["dict", "list"])
def test_one_of_several_outputs_is_chosen_by_name(form):
    image = keras.Input((8, 8, 1))
    x = features(image)
    kind = layers.Dense(2, activation="softmax", name="kind")(x)
    grade = layers.Dense(4, activation="sigmoid", name="grade")(x)
    model = keras.Model(image, {"kind": kind, "grade": grade} if form == "dict" else [kind, grade])
    dense = model.get_layer("grade")
    expected = outputs(keras.Model(image, x), IMAGES) @ dense.get_weights()[0] + dense.get_weights()[1]
    np.testing.assert_allclose(kx.Scorer(model, output="grade").logits(IMAGES), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(kx.HeadError, match=r"output must name one of the outputs .*kind.*got None"):
        kx.Scorer(model).logits(IMAGES)
    with pytest.raises(kx.HeadError, match="got 'size'"):
        kx.Scorer(model, output="size").logits(IMAGES)


def test_updates_of_the_weights_are_followed_without_a_new_trace():
    model = small_cnn()
    model.compile("sgd", "sparse_categorical_crossentropy")
    scorer = kx.Scorer(model)
    before = kx.explain(scorer, IMAGES, "guided", targets=0)
    traces = scorer.traces
    model.fit(IMAGES, np.arange(5) % 3, epochs=3, verbose=0)
    after = kx.explain(scorer, IMAGES[:3], "guided", targets=2)
    fresh = kx.explain(kx.Scorer(model), IMAGES[:3], "guided", targets=2)
    assert scorer.traces == traces or BACKEND == "torch"  # which runs eagerly
    np.testing.assert_array_equal(after.values, fresh.values)
    again = kx.explain(scorer, IMAGES, "guided", targets=0)
    assert np.abs(again.values - before.values).max() > 1e-4


def test_seed_architecture_with_a_nested_resnet50():
    keras.utils.set_random_seed(0)
    backbone = keras.applications.ResNet50(weights=None, include_top=False, input_shape=(32, 32, 3))
    image = keras.Input((32, 32, 3))
    pooled = layers.GlobalAveragePooling2D()(backbone(image))
    model = keras.Model(image, layers.Dense(5, activation="softmax")(pooled))
    pixels = np.random.default_rng(0).random((2, 32, 32, 3), "float32")
    kernel, bias = model.layers[-1].get_weights()
    expected = outputs(keras.Model(image, pooled), pixels) @ kernel + bias
    np.testing.assert_allclose(kx.Scorer(model).logits(pixels), expected, rtol=1e-4, atol=1e-5)
    assert len(relu_replacements(model, "guided")) == 49


@pytest.mark.filterwarnings("ignore:.*softmax over axis -1 of a tensor of shape")  # Keras says so too
@pytest.mark.parametrize(
    ("outputs", "compiled", "message"),
    [
        (lambda x: layers.Dense(3, activation="tanh", name="top")(x), None, r"'top' \(Dense\).*not softmax"),
        (lambda x: layers.Dense(1)(x), "mse", "regression"),
        (lambda x: layers.Dense(4)(x), keras.losses.Huber(), "regression"),
        (lambda x: layers.Dense(1)(x), None, "one linear output"),
        (lambda x: layers.Dense(1, activation="softmax")(x), None, "always 1"),
        (lambda x: layers.Rescaling(1.0)(layers.Dense(3, activation="softmax")(x)), None, "cannot be reached"),
        (lambda x: layers.Reshape((3, 1))(layers.Dense(3)(x)), None, r"shape \(2, 3, 1\)"),
    ],
)
def test_heads_that_cannot_be_switched_say_which_layer_and_what_to_do(outputs, compiled, message):
    image = keras.Input((8, 8, 1))
    model = keras.Model(image, outputs(features(image)))
    if compiled:
        model.compile("sgd", compiled)
    with pytest.raises(kx.HeadError, match=message):
        kx.Scorer(model).logits(IMAGES)


def test_probabilities_behind_something_else_are_never_taken_for_logits():
    """Sigmoid outputs need not sum to one, so only a loss that takes logits can vouch for an unknown last layer."""
    image = keras.Input((8, 8, 1))
    sigmoid = keras.ops.sigmoid(layers.Dense(3)(features(image)))
    for last in (layers.Lambda(lambda p: keras.ops.clip(p, 0.1, 0.9)), layers.Lambda(lambda p: p * 100)):
        with pytest.raises(kx.HeadError, match="logits or probabilities"):
            kx.Scorer(keras.Model(image, last(sigmoid))).logits(IMAGES)
    half = layers.Dense(1, activation="sigmoid", dtype="mixed_float16")(features(image))
    model = keras.Model(image, layers.Activation("linear", dtype="float32")(half))
    model.compile("sgd", "binary_crossentropy")
    with pytest.raises(kx.HeadError, match="logits or probabilities"):
        kx.Scorer(model).logits(IMAGES)
    pooled = keras.Model(image, layers.GlobalAveragePooling2D()(layers.Conv2D(3, 3)(image)))
    pooled.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    np.testing.assert_allclose(kx.Scorer(pooled).logits(IMAGES), outputs(pooled, IMAGES), rtol=1e-5)


def test_losses_of_a_dict_are_read():
    def compiled(units, loss):
        image = keras.Input((8, 8, 1))
        model = keras.Model(image, layers.Dense(units, name="out")(features(image)))
        model.compile("sgd", {"out": loss})
        return model

    binary = keras.losses.BinaryCrossentropy(from_logits=True)
    assert kx.Scorer(compiled(3, binary)).head(IMAGES).kind == "sigmoid"
    assert kx.Scorer(compiled(1, binary)).logits(IMAGES).shape == (5, 2)
    with pytest.raises(kx.HeadError, match="regression"):
        kx.Scorer(compiled(3, "mse")).logits(IMAGES)


@pytest.mark.parametrize("activation", [lambda z: keras.ops.softmax(z / 10), "sparsemax"])
def test_relatives_of_softmax_are_not_taken_for_it(activation):
    image = keras.Input((8, 8, 1))
    model = keras.Model(image, layers.Dense(3, activation=activation)(features(image)))
    with pytest.raises(kx.HeadError, match="not softmax, sigmoid or linear"):
        kx.Scorer(model).logits(IMAGES)


def test_exchanged_layers_are_noticed():
    model = small_cnn()
    scorer = kx.Scorer(model)
    scorer.logits(IMAGES)
    model.pop()
    model.add(layers.Dense(3, activation="softmax"))
    np.testing.assert_allclose(scorer.logits(IMAGES), kx.Scorer(model).logits(IMAGES), rtol=1e-6)


def test_exchanged_activations_are_followed_and_stay():
    model = small_cnn()
    scorer = kx.Scorer(model)
    kx.explain(scorer, IMAGES, "guided", targets=0)
    model.layers[0].activation = keras.activations.gelu
    model.layers[-1].activation = keras.activations.sigmoid
    again = kx.explain(scorer, IMAGES, "vanilla", targets=0)
    assert model.layers[0].activation is keras.activations.gelu
    assert model.layers[-1].activation is keras.activations.sigmoid
    np.testing.assert_allclose(again.values, kx.explain(kx.Scorer(model), IMAGES, "vanilla", targets=0).values)
    assert scorer.head(IMAGES).kind == "sigmoid"


def test_whole_numbers_inside_the_model_have_no_gradient():
    image = keras.Input((8, 8, 1))
    model = keras.Model(
        image, layers.Dense(3, activation="softmax")(features(ops.cast(ops.cast(image, "int32"), "float32")))
    )
    with pytest.raises(kx.InputError, match="whole numbers, so it has no gradient"):
        kx.explain(model, IMAGES, "vanilla", targets=0)


def test_an_input_of_whole_numbers_has_no_gradient():
    image = keras.Input((8, 8, 1), dtype="uint8")
    model = keras.Model(
        image, layers.Dense(3, activation="softmax")(layers.Flatten()(layers.Rescaling(1 / 255)(image)))
    )
    with pytest.raises(kx.InputError, match="whole numbers, so it has no gradient"):
        kx.explain(model, np.ones((1, 8, 8, 1)), "vanilla", targets=0)


def test_a_head_that_is_used_twice_does_not_pass_the_verification():
    image = keras.Input((8, 8, 1))
    shared = layers.Dense(3, activation="softmax", name="shared")
    model = keras.Model(image, shared(shared(layers.Dense(3)(features(image)))))
    with pytest.raises(kx.HeadError, match=r"'shared' \(Dense\).*does not give its logits"):
        kx.Scorer(model).logits(IMAGES)


def test_a_softmax_inside_call_is_named():
    class Hidden(Subclassed):
        def call(self, x, training=False):
            return keras.ops.exp(keras.ops.log(self.head(layers.Flatten()(self.body(x)))))

    with pytest.raises(kx.HeadError, match="cannot be reached"):
        kx.Scorer(Hidden()).logits(IMAGES)


def test_mixed_precision_heads_give_float32_logits():
    keras.mixed_precision.set_dtype_policy("mixed_bfloat16")
    try:
        model = dense_softmax()
    finally:
        keras.mixed_precision.set_dtype_policy("float32")
    logits = kx.Scorer(model).logits(IMAGES)
    assert logits.dtype == "float32"
    twin = dense_softmax()
    twin.set_weights(model.get_weights())
    np.testing.assert_allclose(logits, kx.Scorer(twin).logits(IMAGES), atol=0.05)


def test_models_of_several_inputs_are_refused():
    a, b = keras.Input((4,)), keras.Input((4,))
    model = keras.Model([a, b], layers.Dense(2, activation="softmax")(layers.Concatenate()([a, b])))
    with pytest.raises(kx.InputError, match="2 inputs"):
        kx.Scorer(model)
    with pytest.raises(kx.InputError, match=r"keras\.Model; got str"):
        kx.Scorer("model.h5")


def test_models_whose_one_input_stands_in_a_list_or_dictionary(random):
    image = keras.Input((4,), name="image")
    z = layers.Dense(2, activation="softmax")(image)
    images = random.random((2, 4)).astype("float32")
    plain = kx.explain(keras.Model(image, z), images, "vanilla", targets=0)
    for inputs in ([image], {"image": image}):
        found = kx.explain(keras.Model(inputs, z), images, "vanilla", targets=0)  # and Keras does not warn
        np.testing.assert_array_equal(found.values, plain.values)
        np.testing.assert_array_equal(found.score, plain.score)
