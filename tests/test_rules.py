"""Backward rules: which ReLUs are rewritten, and what is passed back."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_explain as kx
from keras_explain.activations import exchanged, sites
from keras_explain.rules import relu_replacements
from tests.conftest import small_cnn, tensorflow_only


def one_relu(relu, weight):
    """f(x) = w relu(x) for each of some inputs, as the logit of class 0."""
    x = keras.Input((4,))
    model = keras.Model(x, layers.Dense(2, activation="softmax", use_bias=False)(relu(x)))
    model.layers[-1].kernel.assign(np.stack([np.full(4, weight), np.zeros(4)], axis=1))
    return model


X = np.array([[-1.0, 0.5, 3.0, 8.0]], "float32")


@pytest.mark.parametrize(
    ("relu", "open_gate"),
    [
        (layers.ReLU(), [0, 1, 1, 1]),
        (layers.Activation("relu"), [0, 1, 1, 1]),
        (layers.Activation("relu6"), [0, 1, 1, 0]),
        (layers.ReLU(max_value=6.0), [0, 1, 1, 0]),
        (layers.ReLU(threshold=1.0), [0, 0, 1, 1]),
        (keras.ops.relu, [0, 1, 1, 1]),
        (keras.ops.relu6, [0, 1, 1, 0]),
        (layers.Activation(lambda x: keras.ops.maximum(x, 0)), [0, 1, 1, 1]),
    ],
)
@pytest.mark.parametrize("weight", [2.0, -2.0])
def test_what_each_relu_passes_back(relu, open_gate, weight):
    model = one_relu(relu, weight)
    gate = np.array(open_gate)
    for rule, expected in {
        "vanilla": weight * gate,
        "guided": max(weight, 0) * gate,
        "rectified": max(weight, 0) * np.ones(4),
    }.items():
        found = kx.explain(model, X, kx.Saliency(rule), targets=0)
        np.testing.assert_allclose(found.values[0], expected, atol=1e-6, err_msg=rule)
        assert found.settings["relus_rewritten"] == (0 if rule == "vanilla" else 1)


def test_forward_values_do_not_change():
    model = small_cnn()
    images = np.random.default_rng(0).random((3, 8, 8, 1), "float32")
    vanilla = kx.explain(model, images, "vanilla", targets=0)
    for rule in ("guided", "rectified"):
        np.testing.assert_allclose(kx.explain(model, images, rule, targets=0).score, vanilla.score, rtol=1e-6)


@pytest.mark.parametrize("leaky", [layers.LeakyReLU(), layers.PReLU(), layers.Activation("leaky_relu")])
def test_leaky_relus_are_refused_by_name(leaky):
    with pytest.raises(kx.RuleError, match=leaky.name):
        kx.explain(one_relu(leaky, 1.0), X, "guided", targets=0)


@tensorflow_only
def test_layers_that_compile_themselves_are_refused():
    """They would keep the first rule they were traced with, in training too."""
    import tensorflow as tf

    class Compiled(layers.Layer):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(4, activation="relu")

        @tf.function
        def call(self, x):
            return self.dense(x)

    with pytest.raises(kx.RuleError, match=r"compile their own call with tf\.function: compiled"):
        kx.explain(one_relu(Compiled(), 1.0), X, "guided", targets=0)


def test_a_model_without_relus_is_refused():
    with pytest.raises(kx.RuleError, match="has none"):
        kx.explain(one_relu(layers.Activation("gelu"), 1.0), X, "rectified", targets=0)


def test_smooth_activations_keep_their_own_gradient_beside_relus():
    x = keras.Input((4,))
    mixed = keras.Model(x, layers.Dense(2, activation="softmax")(layers.ReLU()(layers.Activation("silu")(x))))
    assert len(relu_replacements(mixed, "guided")) == 1
    mixed.layers[-1].kernel.assign(np.ones((4, 2)))
    # With positive weights nothing is clipped: guided is the ordinary gradient, SiLU's slope included.
    x = X.astype("float64")
    sigmoid = 1 / (1 + np.exp(-x))
    expected = np.where(x > 0, sigmoid * (1 + x * (1 - sigmoid)), 0)
    np.testing.assert_allclose(kx.explain(mixed, X, "guided", targets=0).values, expected, rtol=1e-5)


def test_unknown_rules_are_named():
    with pytest.raises(kx.InputError, match="rule must be one of vanilla, guided, rectified; got 'relu'"):
        kx.Saliency("relu")


@pytest.mark.parametrize("raising", [False, True])
def test_exchanged_functions_are_put_back_even_if_the_block_raises(raising):
    model = small_cnn()
    before = [(site.owner, site.function, dict(vars(site.owner))) for site in sites(model)]
    try:
        with exchanged(relu_replacements(model, "guided")):
            inside = [site.function for site in sites(model)]
            if raising:
                raise KeyError("in the middle of a trace")
    except KeyError:
        assert raising
    assert sum(i is not b for i, (_, b, _) in zip(inside, before, strict=True)) == 2
    for owner, function, attributes in before:
        assert vars(owner).get("activation") is attributes.get("activation")
        assert ("call" in vars(owner)) == ("call" in attributes)
        assert getattr(owner, "activation", owner.call) in (function, owner.call)


def test_a_trace_that_raises_leaves_the_model_as_it_was():
    class Failing(layers.Layer):
        fail = False

        def call(self, x):
            if self.fail:
                raise ValueError("no")
            return x

    layer = Failing()
    x = keras.Input((4,))
    model = keras.Model(x, layers.Dense(2, activation="softmax")(layer(layers.Dense(3, activation="relu")(x))))
    scorer = kx.Scorer(model)
    own = scorer.logits(X)
    layer.fail = True
    activations = [layer.activation for layer in model.layers if hasattr(layer, "activation")]
    with pytest.raises(ValueError, match="no"):
        kx.explain(scorer, X, "guided", targets=0)
    assert [layer.activation for layer in model.layers if hasattr(layer, "activation")] == activations
    layer.fail = False
    np.testing.assert_array_equal(scorer.logits(X), own)
