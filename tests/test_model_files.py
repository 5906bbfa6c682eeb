"""Old models predict what they always did, or it is said why they cannot."""

import json
import sys
import warnings
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from keras import layers

import keras_explain as kx
from keras_explain.model_files import resnet50
from keras_explain.outputs import run
from tests.conftest import outputs, small_cnn

KERAS2 = Path(__file__).parent / "data" / "keras2"
MADE = np.load(KERAS2 / "predictions.npz")
X = MADE["x"]


def assert_predicts(model, images, expected):
    found = keras.ops.convert_to_numpy(run(model, keras.ops.convert_to_tensor(images)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("ending", ["h5", "keras"])
@pytest.mark.parametrize("name", ["nested", "sequential", "twice", "recurrent", "deferred"])
def test_models_of_keras_2_15_predict_the_same(name, ending):
    assert np.ptp(MADE[name], axis=0).max() > 0.01  # not saturated
    model = kx.load_model(KERAS2 / f"{name}.{ending}")
    assert_predicts(model, X, MADE[name])
    assert not model.compiled
    if name == "nested":
        kx.explain(model, X[:1], "guided")


@pytest.mark.parametrize("name", ["nested-functional", "nested-sequential", "flat-functional", "flat-sequential"])
def test_models_of_keras_2_2_predict_the_same(name, test_data):
    known = np.load(test_data / "legacy_h5" / "keras2.2.4-predictions.npz")
    assert_predicts(kx.load_model(test_data / "legacy_h5" / f"{name}-keras2.2.4.h5"), known["x"], known[name])


@pytest.mark.parametrize("version", ["tf1.15.2.h5", "tf2.18.0.h5", "tf2.18.0.keras"])
@pytest.mark.parametrize(("name", "shape"), [("iris-ae", (4,)), ("iris-ffn", (4,)), ("mnist-logistic", (28, 28, 1))])
def test_models_of_tensorflow_compute_what_their_tensors_multiply_out_to(name, shape, version, test_data, random):
    """Three files of each net, trained apart: of TensorFlow 1.15 and 2.18, and of Keras 3."""
    path = test_data / "legacy_h5" / f"{name}-{version}"
    images = random.random((5, *shape)).astype("float32")
    found = {}

    def keep(place, item):
        if hasattr(item, "shape"):
            found[place] = np.asarray(item)

    if version.endswith(".keras"):
        with zipfile.ZipFile(path) as archive, h5py.File(archive.open("model.weights.h5")) as file:
            file.visititems(keep)
            config = json.loads(archive.read("config.json"))
        kinds = ("vars/0", "vars/1")
    else:
        with h5py.File(path) as file:
            file["model_weights"].visititems(keep)
            config = json.loads(file.attrs["model_config"])
        kinds = ("kernel:0", "bias:0")
    assert_predicts(kx.load_model(path), images, by_hand(config, found, kinds, images))


def by_hand(config, found, kinds, images):
    """The output of a stack of dense layers, from the tensors and activations in the file."""
    steps = []

    def collect(config):
        for layer in config["config"]["layers"]:
            collect(layer) if "layers" in layer["config"] else steps.append(layer["config"])

    collect(config)
    x = images.reshape(len(images), -1).astype("float64")
    for step in (step for step in steps if "units" in step):
        wanted = (x.shape[1], step["units"])  # no two kernels of these nets have one shape
        (place,) = (place for place in found if place.endswith(kinds[0]) and found[place].shape == wanted)
        x = x @ found[place] + found[place.removesuffix(kinds[0]) + kinds[1]]
        activations = {"relu": lambda z: np.maximum(z, 0), "softmax": softmax, "linear": lambda z: z}
        x = activations.get(step["activation"], sigmoid)(x)
    return x


def softmax(z):
    return np.exp(z - z.max(axis=1, keepdims=True)) / np.exp(z - z.max(axis=1, keepdims=True)).sum(
        axis=1, keepdims=True
    )


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def test_the_mammography_model_itself(test_data):
    known = np.load(test_data / "legacy_h5" / "resnet50_model_0_predictions.npz")
    images = known["images_x100"].astype("float32") / 100
    path = test_data / "legacy_h5" / "resnet50_model_0_best_weights.h5"
    assert_predicts(kx.load_model(path), images, known["predictions"])


def test_its_weights_alone_go_into_the_named_architecture(test_data, tmp_path):
    """Not into that of keras.applications, whose layers come in another order and whose epsilon differs."""
    known = np.load(test_data / "legacy_h5" / "resnet50_model_0_predictions.npz")
    alone = tmp_path / "weights.h5"
    with h5py.File(test_data / "legacy_h5" / "resnet50_model_0_best_weights.h5") as file, h5py.File(alone, "w") as to:
        for layer in file["model_weights"]:
            file["model_weights"].copy(layer, to)
        to.attrs.update(dict(file["model_weights"].attrs))
    images = known["images_x100"].astype("float32") / 100
    assert_predicts(kx.load_model(alone, architecture="resnet50"), images, known["predictions"])
    with pytest.raises(kx.InputError, match="weights without the model that they belong to"):
        kx.load_model(alone)
    image = keras.Input((299, 299, 3))
    backbone = keras.applications.ResNet50(weights=None, include_top=False, input_shape=(299, 299, 3))
    other = keras.Model(image, layers.Dense(5)(layers.GlobalAveragePooling2D()(backbone(image))))
    before = [np.array(v.numpy()) for v in other.weights[:8]]
    with pytest.raises(kx.InputError, match=r"320 weights for a model of 320; at place \d+ stands res"):
        kx.load_model(alone, architecture=other)
    for variable, value in zip(other.weights, before, strict=False):
        np.testing.assert_array_equal(variable.numpy(), value)  # nothing was filled


def nested_again(last="dense"):
    """The model `nested` of Keras 2.15, written for Keras 3."""
    image = keras.Input((8, 8, 3))
    x = layers.BatchNormalization(name="batch_normalization")(layers.Conv2D(4, 3, padding="same", name="conv2d")(image))
    y = layers.DepthwiseConv2D(3, padding="same", name="depthwise_conv2d")(layers.ReLU()(x))
    inner = keras.Model(image, layers.Add()([y, x]), name="resnet50")
    outer = keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D()(inner(outer))
    return keras.Model(outer, layers.Dense(3, activation="softmax", name=last)(x))


@pytest.mark.parametrize("file", ["nested-weights.h5", "nested.weights.h5"])
def test_weights_alone_fill_a_given_model(file):
    assert_predicts(kx.load_model(KERAS2 / file, architecture=nested_again()), X, MADE["nested"])
    with pytest.raises(kx.InputError, match="weights"), warnings.catch_warnings(action="ignore"):
        kx.load_model(KERAS2 / file, architecture=small_cnn())


def test_weights_that_go_by_place_alone_are_told():
    with pytest.warns(
        kx.ExplanationWarning, match=r"The file's 'dense/kernel' fills 'other/kernel': compare a prediction"
    ):
        model = kx.load_model(KERAS2 / "nested-weights.h5", architecture=nested_again("other"))
    assert_predicts(model, X, MADE["nested"])


def written(path, config, weights, split=None, **attributes):
    """A file as Keras 2 lays it out: weights is {layer: [(name, values), ...]} in the order of the file."""
    with h5py.File(path, "w") as file:
        group = file
        if config is not None:
            file.attrs.update({"model_config": json.dumps(config), "keras_version": "2.3.1", "backend": "tensorflow"})
            group = file.create_group("model_weights")
        file.attrs.update(attributes)

        def names(place, attribute, given):
            if split is None:
                place.attrs[attribute] = np.array(given, "S")
            else:
                for i in range(0, len(given), split):
                    place.attrs[f"{attribute}{i // split}"] = np.array(given[i : i + split], "S")

        names(group, "layer_names", list(weights))
        for layer, tensors in weights.items():
            inner = group.create_group(layer)
            names(inner, "weight_names", [name for name, _ in tensors])
            for name, values in tensors:
                inner[name] = np.asarray(values, "float32")
    return path


def stack(*steps, shape=(3,)):
    """The configuration of a functional model of Keras 2, one layer after the other: (class, config) pairs."""
    told = [
        {
            "class_name": "InputLayer",
            "name": "i",
            "config": {"name": "i", "batch_input_shape": [None, *shape]},
            "inbound_nodes": [],
        }
    ]
    for kind, config in steps:
        link = [[[told[-1]["name"], 0, 0, {}]]]
        told.append({"class_name": kind, "name": config["name"], "config": config, "inbound_nodes": link})
    ends = {"input_layers": [["i", 0, 0]], "output_layers": [[told[-1]["name"], 0, 0]]}
    return {"class_name": "Model", "config": {"name": "m", "layers": told, **ends}}


def dense(name, units=3, **more):
    return "Dense", {"name": name, "units": units, "use_bias": False, **more}


EYE = np.eye(3)


def test_what_keras_3_means_otherwise_by_the_same_word(tmp_path):
    """hard_sigmoid had the slope 0.2 and has 1/6; Normalization must be told that it has its statistics."""
    config = stack(dense("a", activation="hard_sigmoid"))
    model = kx.load_model(written(tmp_path / "a.h5", config, {"a": [("a/kernel:0", EYE)]}))
    np.testing.assert_allclose(outputs(model, np.array([[1.0, -1.0, 9.0]])), [[0.7, 0.3, 1.0]], atol=1e-6)
    model.save(tmp_path / "again.keras")
    np.testing.assert_allclose(
        outputs(kx.load_model(tmp_path / "again.keras"), np.ones((1, 3))), [[0.7] * 3], atol=1e-6
    )
    config = stack(("Normalization", {"name": "n", "axis": [-1]}), dense("a"))
    statistics = [("n/mean:0", [10, 20, 30]), ("n/variance:0", [4, 4, 4]), ("n/count:0", 0)]
    weights = {"n": statistics, "a": [("a/kernel:0", EYE)]}
    model = kx.load_model(written(tmp_path / "n.h5", config, weights))
    np.testing.assert_allclose(outputs(model, np.array([[12.0, 24.0, 30.0]])), [[1, 2, 0]], atol=1e-5)


def test_files_of_other_backends_are_refused(tmp_path):
    path = written(tmp_path / "a.h5", stack(dense("a")), {"a": [("a/kernel:0", EYE)]}, backend="theano")
    with pytest.raises(kx.InputError, match="another backend than TensorFlow, where kernels are turned round"):
        kx.load_model(path)


def test_names_decide_before_places_where_shapes_are_alike(tmp_path):
    """A file that was written while the first of two layers was frozen holds it last."""
    first, second = np.diag([2.0, 3.0, 5.0]), np.arange(9.0).reshape(3, 3)
    image = keras.Input((3,))
    inner = keras.Model(
        image,
        layers.Dense(3, use_bias=False, name="d2")(layers.Dense(3, use_bias=False, name="d1")(image)),
        name="inner",
    )
    outer = keras.Input((3,))
    model = keras.Model(outer, inner(outer))
    path = written(tmp_path / "w.h5", None, {"inner": [("d2/kernel:0", second), ("d1/kernel:0", first)]})
    loaded = kx.load_model(path, architecture=model)
    x = np.array([[1.0, 2.0, 3.0]])
    np.testing.assert_allclose(outputs(loaded, x), x @ first @ second, rtol=1e-5)
    config = stack(dense("p"), dense("q"))
    path = written(tmp_path / "m.h5", config, {"q": [("q/kernel:0", second)], "p": [("p/kernel:0", first)]})
    np.testing.assert_allclose(outputs(kx.load_model(path), x), x @ first @ second, rtol=1e-5)


def test_layers_that_hold_weights_of_one_name_are_told_apart_by_their_own(tmp_path):
    """Two branches with a layer "d" each, and a file that has the second branch first."""
    image = keras.Input((3,))
    branches = [keras.Sequential([keras.Input((3,)), layers.Dense(3, use_bias=False, name="d")], name=n) for n in "AB"]
    model = keras.Model(image, layers.Concatenate()([branch(image) for branch in branches]))
    weights = {"B": [("d/kernel:0", 2 * EYE)], "A": [("d/kernel:0", EYE)]}
    loaded = kx.load_model(written(tmp_path / "w.h5", None, weights), architecture=model)
    np.testing.assert_allclose(outputs(loaded, np.ones((1, 3))), [[1, 1, 1, 2, 2, 2]])


def test_a_refused_file_leaves_the_architecture_as_it_was(tmp_path):
    model, other = (
        keras.Sequential([keras.Input((3,)), layers.Dense(4, name="a"), layers.Dense(units, name="b")])
        for units in (2, 3)
    )
    model.save_weights(tmp_path / "w.weights.h5")
    before = [np.array(v.numpy()) for v in other.weights]
    with pytest.raises(kx.InputError, match="weights do not fit the model"):
        kx.load_model(tmp_path / "w.weights.h5", architecture=other)
    for variable, value in zip(other.weights, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    path = written(tmp_path / "w.h5", None, {"a": [("a/kernel:0", EYE)]})
    with pytest.raises(kx.InputError, match=r"architecture must be a keras.Model or a name; got function"):
        kx.load_model(path, architecture=lambda: 0)
    with pytest.raises(kx.InputError, match="has no weights yet; build it first"):
        kx.load_model(path, architecture=keras.Sequential([layers.Dense(3)]))


def test_recurrent_cells_and_numbers_as_old_files_have_them(tmp_path):
    """GRUs without reset_after had one bias; cells stand in a list, hard_sigmoid in each; a slope as an array."""
    ones = [("g/kernel:0", np.ones((3, 6))), ("g/recurrent_kernel:0", np.zeros((2, 6))), ("g/bias:0", np.zeros(6))]
    gru = {"name": "g", "units": 2, "activation": "linear", "recurrent_activation": "hard_sigmoid"}
    path = written(tmp_path / "g.h5", stack(("GRU", gru), shape=(1, 3)), {"g": ones})
    gate = 0.2 * 0.3 + 0.5
    np.testing.assert_allclose(
        outputs(kx.load_model(path), np.full((1, 1, 3), 0.1)), [[(1 - gate) * 0.3] * 2], rtol=1e-5
    )
    cell = {"class_name": "GRUCell", "config": {**gru, "name": "c"}}
    rnn = {"name": "r", "cell": {"class_name": "StackedRNNCells", "config": {"name": "s", "cells": [cell]}}}
    path = written(
        tmp_path / "r.h5", stack(("RNN", rnn), shape=(1, 3)), {"r": [(n.replace("g/", "r/"), v) for n, v in ones]}
    )
    np.testing.assert_allclose(
        outputs(kx.load_model(path), np.full((1, 1, 3), 0.1)), [[(1 - gate) * 0.3] * 2], rtol=1e-5
    )
    leaky = ("LeakyReLU", {"name": "l", "alpha": {"type": "ndarray", "value": 0.25}})
    path = written(tmp_path / "l.h5", stack(leaky, dense("a")), {"a": [("a/kernel:0", EYE)]})
    np.testing.assert_allclose(outputs(kx.load_model(path), np.array([[-4.0, 0, 4]])), [[-1, 0, 4]])


def test_a_loss_that_is_a_lambda_is_not_looked_at(tmp_path):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, activation="softmax")])
    model.compile("adam", lambda truth, predicted: keras.ops.mean(truth - predicted))
    with warnings.catch_warnings(action="ignore"):
        model.save(tmp_path / "m.keras")
    assert_predicts(kx.load_model(tmp_path / "m.keras"), np.ones((1, 3)), outputs(model, np.ones((1, 3))))


def test_long_lists_of_names_stand_in_parts(tmp_path):
    config = stack(*(dense(f"d{i}") for i in range(5)))
    weights = {f"d{i}": [(f"d{i}/kernel:0", (i + 1) * EYE)] for i in range(5)}
    model = kx.load_model(written(tmp_path / "m.h5", config, weights, split=2))
    np.testing.assert_allclose(outputs(model, np.ones((1, 3))), [[120] * 3])


class Scaled(layers.Layer):
    """Weights whose names end in numbers, as those of Keras 2 do when a name stands twice."""

    def build(self, shape):
        self.first = self.add_weight(shape=(shape[-1],), name="w_1")
        self.second = self.add_weight(shape=(shape[-1],), name="w_2")

    def call(self, x):
        return x * self.first + self.second


def test_weights_of_the_users_own_layers_keep_their_numbers(tmp_path):
    weights = {"s": [("s/w_1:0", [1, 2, 3]), ("s/w_2:0", [4, 5, 6])]}
    path = written(tmp_path / "m.h5", stack(("Scaled", {"name": "s"})), weights)
    model = kx.load_model(path, custom_objects={"Scaled": Scaled})
    np.testing.assert_allclose(outputs(model, np.ones((1, 3))), [[5, 7, 9]])
    twice = {"a": [("a/kernel_1:0", 2 * EYE)]}
    model = kx.load_model(written(tmp_path / "t.h5", stack(dense("a")), twice))
    np.testing.assert_allclose(outputs(model, np.ones((1, 3))), [[2, 2, 2]])


def test_dtype_policies_are_kept_and_other_orders_of_time_refused(tmp_path):
    policy = {"class_name": "Policy", "config": {"name": "mixed_float16"}}
    model = kx.load_model(written(tmp_path / "a.h5", stack(dense("a", dtype=policy)), {"a": [("a/kernel:0", EYE)]}))
    assert model.get_layer("a").compute_dtype == "float16"
    lstm = ("LSTM", {"name": "l", "units": 2, "time_major": True})
    with pytest.raises(kx.InputError, match=r"cannot make this model of Keras 2.*time_major"):
        kx.load_model(written(tmp_path / "l.h5", stack(lstm, shape=(4, 3)), {"l": []}))


def test_functions_and_wrapped_models_in_configurations(tmp_path):
    """A function as a loss or activation has a name where objects have a configuration; wrappers can hold models."""
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, activation="softmax")])
    model.compile("adam", keras.losses.categorical_crossentropy)
    model.save(tmp_path / "m.keras")
    assert_predicts(kx.load_model(tmp_path / "m.keras"), np.ones((1, 3)), outputs(model, np.ones((1, 3))))
    inner = {
        "class_name": "Sequential",
        "config": [
            {
                "class_name": "Dense",
                "config": {"name": "a", "units": 3, "use_bias": False, "batch_input_shape": [None, 3]},
            }
        ],
    }
    wrapped = ("TimeDistributed", {"name": "t", "layer": inner})
    path = written(tmp_path / "t.h5", stack(wrapped, shape=(4, 3)), {"t": [("a/kernel:0", 3 * EYE)]})
    np.testing.assert_allclose(outputs(kx.load_model(path), np.ones((1, 4, 3))), np.full((1, 4, 3), 3.0))
    listed = {
        "class_name": "Sequential",
        "config": [
            {
                "class_name": "Dense",
                "config": {"name": "a", "units": 3, "use_bias": False, "batch_input_shape": [None, 3]},
            }
        ],
    }
    path = written(tmp_path / "s.h5", listed, {"a": [("a/kernel:0", 3 * EYE)]})
    np.testing.assert_allclose(outputs(kx.load_model(path), np.ones((1, 3))), [[3, 3, 3]])


def test_nested_models_by_their_first_and_by_their_second_call(tmp_path):
    """Keras 2 counts from 1 where a nested model was made first and then called, and from 0 where the call made it."""
    inner = {
        "class_name": "Dense",
        "config": {"name": "a", "units": 3, "use_bias": False, "batch_input_shape": [None, 3]},
    }
    config = stack(("Sequential", {"name": "s", "layers": [inner]}), dense("b"))
    shift = np.eye(3)[[1, 2, 0]] * [1, 2, 3]
    weights = {"s": [("a/kernel:0", shift)], "b": [("b/kernel:0", EYE)]}
    x = np.array([[1.0, 10.0, 100.0]])
    _, nested, last = config["config"]["layers"]
    for first in (0, 1):
        last["inbound_nodes"] = [[["s", first, 0, {}]]]
        np.testing.assert_allclose(outputs(kx.load_model(written(tmp_path / "one.h5", config, weights)), x), x @ shift)
    for first in (0, 1):  # called twice, one after the other
        nested["inbound_nodes"] = [[["i", 0, 0, {}]], [["s", first, 0, {}]]]
        last["inbound_nodes"] = [[["s", first + 1, 0, {}]]]
        np.testing.assert_allclose(
            outputs(kx.load_model(written(tmp_path / "two.h5", config, weights)), x), x @ shift @ shift
        )


def test_an_h5_file_of_keras_3_with_models_in_it(tmp_path):
    model = nested_again()
    with warnings.catch_warnings(action="ignore"):  # of the legacy format
        model.save(tmp_path / "m.h5")
    loaded = kx.load_model(tmp_path / "m.h5")
    assert_predicts(loaded, X, outputs(model, X))


def test_a_model_without_a_dense_layer_is_not_the_named_one(tmp_path):
    path = written(tmp_path / "w.h5", None, {"c": [("c/kernel:0", np.ones((3, 3, 3, 4)))]})
    with pytest.raises(kx.InputError, match="has no dense layer, so it is not 'resnet50'"):
        kx.load_model(path, architecture="resnet50")


def test_random_generators_are_no_weights_but_layers_named_seed_are(tmp_path):
    model = keras.Sequential([keras.Input((3,)), layers.Dropout(0.5), layers.Dense(2, name="seed_detector")])
    model.save_weights(tmp_path / "m.weights.h5")
    other = keras.models.clone_model(model)
    loaded = kx.load_model(tmp_path / "m.weights.h5", architecture=other)
    assert_predicts(loaded, np.ones((2, 3)), outputs(model, np.ones((2, 3))))
    with h5py.File(tmp_path / "m.weights.h5", "a") as file:
        file["layers/extra/vars/0"] = np.ones(3)
    with pytest.raises(kx.InputError, match="holds 3 weights, of which 2 have a place among the model's 2"):
        kx.load_model(tmp_path / "m.weights.h5", architecture=keras.models.clone_model(model))
    path = written(
        tmp_path / "d.h5",
        stack(("Dropout", {"name": "d", "rate": 0.5}), dense("seed_a")),
        {"d": [], "seed_a": [("seed_a/kernel:0", EYE)]},
    )
    np.testing.assert_allclose(outputs(kx.load_model(path), np.ones((1, 3))), [[1, 1, 1]])


@pytest.mark.parametrize("ending", ["keras", "h5", "weights.h5"])
def test_files_of_keras_3(ending, tmp_path):
    model = small_cnn(normalise=True)
    images = np.random.default_rng(0).random((3, 8, 8, 1)).astype("float32")
    path = tmp_path / f"model.{ending}"
    if ending == "weights.h5":
        model.save_weights(path)
        loaded = kx.load_model(path, architecture=small_cnn(seed=1, normalise=True))
        with pytest.raises(kx.InputError, match="not written by Keras 2; 'resnet50' is a model of Keras 2"):
            kx.load_model(path, architecture="resnet50")
    else:
        with warnings.catch_warnings(action="ignore"):  # of the legacy format
            model.save(path)
        loaded = kx.load_model(path)
        with pytest.raises(kx.InputError, match="holds a whole model; leave architecture out"):
            kx.load_model(path, architecture="resnet50")
    assert_predicts(loaded, images, model.predict(images, verbose=0))


def test_a_tensor_too_many_too_few_or_of_another_kind_is_an_error(tmp_path):
    """Loading by names would leave such weights at random and say nothing."""

    def changed(change):
        path = tmp_path / "changed.h5"
        path.write_bytes((KERAS2 / "deferred.h5").read_bytes())
        with h5py.File(path, "a") as file:
            change(file["model_weights"])
        return path

    def fewer(group):
        group["dense_4"].attrs["weight_names"] = group["dense_4"].attrs["weight_names"][:1]

    def more(group):
        names = list(group["dense_4"].attrs["weight_names"])
        group["dense_4"].attrs["weight_names"] = [*names, names[1]]

    def other_kind(group):
        inner = group["dense_4"]["dense_4"] if "dense_4" in group["dense_4"] else group["dense_4"]
        inner.move("bias:0", "gamma:0")
        names = [str(name).replace("bias", "gamma") for name in group["dense_4"].attrs["weight_names"]]
        group["dense_4"].attrs["weight_names"] = names

    with h5py.File(KERAS2 / "deferred.h5") as file:
        assert "dense_4" in file["model_weights"], list(file["model_weights"])
    for change, words in (
        (fewer, "it holds 3 weights for a model of 4; at place 4 stands nothing, where the model has .*dense_4/bias"),
        (more, "it holds 5 weights for a model of 4; at place 5 stands .*, where the model has nothing"),
        (other_kind, r"at place 4 stands .*gamma:0 \(3,\), where the model has .*dense_4/bias"),
    ):
        with pytest.raises(kx.InputError, match=words):
            kx.load_model(changed(change))


@pytest.mark.parametrize("ending", ["h5", "keras"])
def test_code_in_files_is_refused_and_never_run(ending):
    with pytest.raises(kx.InputError, match=r"the Lambda layer 'lambda' holds code .* safe_mode=False"):
        kx.load_model(KERAS2 / f"code.{ending}")
    with pytest.raises(kx.InputError, match=r"the TensorFlow operation 'tf.math.truediv' is a layer"):
        kx.load_model(KERAS2 / f"operation.{ending}")


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the code in these files is that of Python 3.11")
@pytest.mark.parametrize("ending", ["h5", "keras"])
def test_a_lambda_of_keras_2_is_loaded_when_it_is_trusted(ending):
    assert_predicts(kx.load_model(KERAS2 / f"code.{ending}", safe_mode=False), X, MADE["code"])


def test_a_lambda_is_loaded_when_it_is_trusted(tmp_path):
    model = keras.Sequential([keras.Input((4,)), layers.Lambda(lambda x: x / 2), layers.Dense(2, activation="softmax")])
    model.save(tmp_path / "model.keras")
    with pytest.raises(kx.InputError, match="the Lambda layer"):
        kx.load_model(tmp_path / "model.keras")
    loaded = kx.load_model(tmp_path / "model.keras", safe_mode=False)
    assert_predicts(loaded, np.ones((2, 4)), model.predict(np.ones((2, 4)), verbose=0))


def test_a_module_named_in_a_file_is_not_imported(tmp_path):
    """A configuration could name any class of any module; only Keras' own and those given are made."""
    (tmp_path / "hostile_module.py").write_text("raise SystemExit('imported')")
    config = {
        "class_name": "Sequential",
        "module": "keras",
        "registered_name": None,
        "config": {"name": "m", "layers": []},
    }
    evil = {"class_name": "Evil", "module": "hostile_module", "registered_name": "Evil", "config": {"name": "evil"}}
    config["config"]["layers"] = [evil]
    for version in ("2.15.0", "3.15.1"):
        path = tmp_path / "model.keras"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", json.dumps(config))
            archive.writestr("metadata.json", json.dumps({"keras_version": version}))
            archive.writestr("model.weights.h5", b"")
        with pytest.raises(kx.InputError, match=r"a Evil, which Keras does not have|Keras .* cannot read it"):
            kx.load_model(path)


class Doubled(layers.Layer):
    def call(self, x):
        return 2 * x


def test_the_users_own_layers_are_made_when_they_are_given(tmp_path):
    path = tmp_path / "model.h5"
    layer = {"class_name": "Doubled", "config": {"name": "d", "batch_input_shape": [None, 4]}}
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(
            {"class_name": "Sequential", "config": {"name": "m", "layers": [layer]}}
        )
        file.create_group("model_weights").attrs["layer_names"] = [b"d"]
        file["model_weights"].create_group("d").attrs["weight_names"] = np.array([], "S1")
    with pytest.raises(
        kx.InputError, match="the layer 'd' is a Doubled, which Keras does not have; give it in custom_o"
    ):
        kx.load_model(path)
    model = kx.load_model(path, custom_objects={"Doubled": Doubled})
    assert_predicts(model, np.ones((1, 4)), [[2, 2, 2, 2]])


def test_files_that_are_cut_off_or_foreign_say_so(tmp_path):
    for name in ("nested.h5", "nested.keras"):
        whole = (KERAS2 / name).read_bytes()
        for share in (0.02, 0.5, 0.97):
            path = tmp_path / name
            path.write_bytes(whole[: int(len(whole) * share)])
            with pytest.raises(kx.InputError, match=r"nested\.(h5|keras)( is cut off|: )"):
                kx.load_model(path)
    (tmp_path / "text.h5").write_text("not a model")
    with pytest.raises(kx.InputError, match=r"is cut off or damaged, or neither a .keras nor an .h5 file"):
        kx.load_model(tmp_path / "text.h5")
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["measurements"] = np.ones(3)
    with pytest.raises(kx.InputError, match="holds neither a model of Keras nor its weights"):
        kx.load_model(tmp_path / "data.h5")
    with zipfile.ZipFile(tmp_path / "photos.keras", "w") as archive:
        archive.writestr("photo.txt", "x")
    with pytest.raises(kx.InputError, match="is cut off or damaged, or neither"):
        kx.load_model(tmp_path / "photos.keras")
    with pytest.raises(kx.InputError, match="does not exist"):
        kx.load_model(tmp_path / "absent.h5")
    with pytest.raises(kx.InputError, match=r"is a folder. A SavedModel holds compiled code only"):
        kx.load_model(tmp_path)
    with pytest.raises(kx.InputError, match=r"architecture must be a keras.Model or one of resnet50; got 'vgg'"):
        kx.load_model(KERAS2 / "nested-weights.h5", architecture="vgg")


def test_the_named_resnet50_has_the_layers_of_keras_2(test_data):
    with h5py.File(test_data / "legacy_h5" / "resnet50_model_0_best_weights.h5") as file:
        stored = json.loads(file.attrs["model_config"])["config"]["layers"][1]["config"]["layers"]
    own = resnet50(5).get_layer("resnet50").get_config()["layers"]
    told = ("filters", "kernel_size", "strides", "padding", "epsilon", "use_bias", "pool_size")
    for before, now in zip(stored, own, strict=True):
        for key in told:
            value = now["config"].get(key)
            if key in before["config"] and value is not None:
                plain = (
                    [list(part) if isinstance(part, tuple) else part for part in value]
                    if isinstance(value, (list, tuple))
                    else value
                )
                assert plain == before["config"][key], (before["name"], key)
        if before["class_name"] in ("Conv2D", "BatchNormalization"):
            assert before["name"] == now["config"]["name"]
