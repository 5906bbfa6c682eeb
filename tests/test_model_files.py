"""Old models predict what they always did, or it is said why they cannot."""

import json
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
from tests.conftest import small_cnn

KERAS2 = Path(__file__).parent / "data" / "keras2"
MADE = np.load(KERAS2 / "predictions.npz")
X = MADE["x"]


def assert_predicts(model, images, expected):
    np.testing.assert_allclose(run(model, images), expected, rtol=0, atol=1e-5)


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


def nested_again(name="resnet50"):
    """The model `nested` of Keras 2.15, written for Keras 3."""
    image = keras.Input((8, 8, 3))
    x = layers.BatchNormalization(name="batch_normalization")(layers.Conv2D(4, 3, padding="same", name="conv2d")(image))
    y = layers.DepthwiseConv2D(3, padding="same", name="depthwise_conv2d")(layers.ReLU()(x))
    inner = keras.Model(image, layers.Add()([y, x]), name=name)
    outer = keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D()(inner(outer))
    return keras.Model(outer, layers.Dense(3, activation="softmax", name="dense")(x))


@pytest.mark.parametrize("file", ["nested-weights.h5", "nested.weights.h5"])
def test_weights_alone_fill_a_given_model(file):
    assert_predicts(kx.load_model(KERAS2 / file, architecture=nested_again()), X, MADE["nested"])
    with pytest.raises(kx.InputError, match="weights"), warnings.catch_warnings(action="ignore"):
        kx.load_model(KERAS2 / file, architecture=small_cnn())


def test_weights_that_go_by_place_alone_are_told():
    with pytest.warns(kx.ExplanationWarning, match="The file's layer 'resnet50' fills 'other': compare a prediction"):
        model = kx.load_model(KERAS2 / "nested-weights.h5", architecture=nested_again("other"))
    assert_predicts(model, X, MADE["nested"])


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
    with pytest.raises(kx.InputError, match=r"is cut off, or neither a .keras nor an .h5 file"):
        kx.load_model(tmp_path / "text.h5")
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["measurements"] = np.ones(3)
    with pytest.raises(kx.InputError, match="holds neither a model of Keras nor its weights"):
        kx.load_model(tmp_path / "data.h5")
    with zipfile.ZipFile(tmp_path / "photos.keras", "w") as archive:
        archive.writestr("photo.txt", "x")
    with pytest.raises(kx.InputError, match="is cut off, or neither"):
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
