"""Which images are chosen, from everything that fit takes."""

import random as python_random

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_explain as kx
from tests.conftest import linear_model, small_cnn

# Logits are the three entries of x, so probabilities and answers can be read off.
MODEL = linear_model(np.eye(3))
X = np.array(
    [
        [5.0, 0.0, 0.0],  # 0, sure
        [0.0, 1.0, 0.0],  # 1, hardly
        [0.0, 4.0, 3.9],  # called 1, is 2: wrong, though class 2 is likelier than in the only right one
        [2.0, 0.0, 0.0],  # 0
        [0.0, 2.0, 0.0],  # 1, surer
        [0.0, 0.0, 0.1],  # 2, hardly
        [9.0, 0.0, 0.0],  # called 0, is 1: wrong though very sure
    ],
    "float32",
)
Y = np.array([0, 1, 2, 0, 1, 2, 1])
ONE_HOT = np.eye(3, dtype="float32")[Y]


class Batches(keras.utils.PyDataset):
    def __init__(self, y=Y):
        super().__init__()
        self.y = y

    def __len__(self):
        return 4

    def __getitem__(self, i):
        return X[2 * i : 2 * i + 2], self.y[2 * i : 2 * i + 2]


class Loader:
    """Batches as a torch DataLoader yields them: lists of arrays."""

    def __iter__(self):
        return iter([[X[i : i + 3], Y[i : i + 3]] for i in range(0, 7, 3)])


SOURCES = {
    "arrays": lambda: (X, Y),
    "arrays and weights": lambda: (X, Y, np.linspace(9, 0, 7)),
    "one-hot": lambda: (X, ONE_HOT),
    "column of labels": lambda: (X, Y[:, None]),
    "tf.data": lambda: tf.data.Dataset.from_tensor_slices((X, Y)).batch(3),
    "tf.data, one-hot, weights": lambda: tf.data.Dataset.from_tensor_slices((X, ONE_HOT, Y)).batch(2),
    "PyDataset": Batches,
    "loader": Loader,
    "tensors": lambda: (tf.constant(X), tf.constant(Y)),
}


@pytest.mark.parametrize("source", SOURCES)
def test_the_surest_correct_image_of_each_class(source):
    samples = kx.select(MODEL, SOURCES[source]())
    assert samples.ids == ("0", "4", "5")
    assert samples.labels.tolist() == [0, 1, 2]
    assert samples.targets.tolist() == [[0], [1], [2]]
    np.testing.assert_array_equal(samples.images, X[[0, 4, 5]])
    logits = X[[0, 4, 5]].astype("float64")
    expected = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True))[[0, 1, 2], [0, 1, 2]]
    np.testing.assert_allclose(samples.confidence, expected, rtol=1e-5)
    assert samples.value_range == (0, 9)
    assert samples.accuracy == pytest.approx(5 / 7)
    assert samples.missing == ()


def test_several_images_a_class_come_by_falling_confidence():
    samples = kx.select(MODEL, (X, Y), images_per_class=2)
    assert samples.ids == ("0", "3", "4", "1", "5")


def test_ids_of_the_data_set_are_kept():
    names = np.array(list("abcdefg"))
    assert kx.select(MODEL, (X, Y, None, names)).ids == ("a", "e", "f")
    dataset = tf.data.Dataset.from_tensor_slices((X, Y, np.ones(7), names)).batch(3)
    assert kx.select(MODEL, dataset).ids == ("a", "e", "f")


def test_a_shuffled_pipeline_never_mixes_up_image_and_label():
    dataset = tf.data.Dataset.from_tensor_slices((X, Y, np.ones(7), np.arange(7))).shuffle(7).batch(2)
    for _ in range(5):
        samples = kx.select(MODEL, dataset)
        assert samples.ids == ("0", "4", "5")
        np.testing.assert_array_equal(samples.images, X[[0, 4, 5]])
        assert samples.fingerprints == kx.select(MODEL, (X, Y)).fingerprints


@pytest.mark.parametrize(
    ("class_map", "labels", "targets", "ids"),
    [
        ({0: 0, 1: 1}, [0, 1], [0, 1], ("0", "4")),
        ({0: 0, 1: 1, 2: None}, [0, 1], [0, 1], ("0", "4")),
        ({2: 1, 0: 0}, [0, 2], [0, 1], ("0", "2")),  # class 2 belongs to output 1: image 2 is right now
        ({1: 1, 2: 1}, [1, 2], [1, 1], ("4", "2")),  # two classes share an output
        (lambda c: c if c < 2 else None, [0, 1], [0, 1], ("0", "4")),
    ],
)
def test_class_maps(class_map, labels, targets, ids):
    samples = kx.select(MODEL, (X, Y), class_map=class_map)
    assert samples.labels.tolist() == labels
    assert samples.targets[:, 0].tolist() == targets
    assert samples.ids == ids


def test_the_seeds_map_of_abnormal_classes():
    """Data-set classes 1 to 4 are outputs 0 to 3, normal images are left out."""
    x = np.concatenate([np.eye(4) * 3, np.full((1, 4), 9.0)]).astype("float32")
    samples = kx.select(linear_model(np.eye(4)), (x, np.array([1, 2, 3, 4, 0])), class_map={1: 0, 2: 1, 3: 2, 4: 3})
    assert dict(zip(samples.labels.tolist(), samples.targets[:, 0].tolist(), strict=True)) == {1: 0, 2: 1, 3: 2, 4: 3}


def test_classes_without_a_correct_image_are_reported():
    always_first = linear_model(np.zeros((3, 3)), [5, 0, 0])
    samples = kx.select(always_first, (X, Y))
    assert samples.labels.tolist() == [0]
    assert samples.missing == ((1, 1), (2, 2))
    nothing = kx.select(always_first, (X, Y), class_map={1: 1, 2: 2})
    assert len(nothing) == 0
    assert nothing.missing == ((1, 1), (2, 2))
    assert nothing.images.shape == (0, 3)


def test_ties_go_to_the_first():
    assert kx.select(MODEL, (np.repeat(X[:1], 3, axis=0), Y[[0, 0, 0]]), class_map={0: 0}).ids == ("0",)


def test_classes_beyond_the_candidates_are_reported():
    assert kx.select(MODEL, (X, Y), candidates=1).missing == ((1, 1), (2, 2))


def test_mapped_classes_that_never_come_are_reported_too():
    samples = kx.select(MODEL, (X[:1], Y[:1]), class_map={0: 0, 2: 2})
    assert samples.missing == ((2, 2),)


def test_candidates_bound_what_is_read():
    assert kx.select(MODEL, (X, Y), candidates=4).ids == ("0", "1")
    assert kx.select(MODEL, tf.data.Dataset.from_tensor_slices((X, Y)).batch(3).repeat(), candidates=7).ids == (
        "0",
        "4",
        "5",
    )


def test_one_sigmoid_unit_chooses_for_both_classes():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, activation="sigmoid")])
    model.set_weights([np.ones((1, 1)), np.zeros(1)])
    samples = kx.select(model, (np.array([[-3.0], [2.0], [-1.0], [4.0], [-9.0]]), np.array([0, 1, 0, 1, 1])))
    assert samples.ids == ("0", "3")
    np.testing.assert_allclose(samples.confidence, 1 / (1 + np.exp([-3.0, -4.0])), rtol=1e-6)


def test_multi_label_images_can_be_chosen_for_each_of_their_classes():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, activation="sigmoid")])
    model.set_weights([np.eye(2), np.zeros(2)])
    x = np.array([[3.0, 2.0], [1.0, -5.0], [-1.0, 4.0]])
    samples = kx.select(model, (x, np.array([[1, 1], [1, 0], [1, 0]])))
    assert samples.labels.tolist() == [0, 1]
    assert samples.ids == ("0", "0")
    assert np.isnan(samples.accuracy)  # not to be compared with Keras' accuracy over all entries


def test_background_is_an_even_draw_from_the_candidates():
    counts = np.zeros(7)
    for seed in range(400):
        background = kx.select(MODEL, (X, Y), background=3, seed=seed).background
        assert len(background) == 3
        for image in background:
            counts[(image == X).all(axis=1)] += 1
    np.testing.assert_allclose(counts / 400, 3 / 7, atol=0.08)


def test_background_is_the_same_for_the_same_seed_however_the_data_are_batched():
    one = kx.select(MODEL, (X, Y), background=3, seed=1).background
    two = kx.select(MODEL, tf.data.Dataset.from_tensor_slices((X, Y)).batch(2), background=3, seed=1).background
    np.testing.assert_array_equal(one, two)
    assert len(kx.select(MODEL, (X, Y), background=50).background) == 7


def test_memory_holds_only_the_best(random):
    model = small_cnn()

    class Endless(keras.utils.PyDataset):
        read = 0

        def __len__(self):
            return 200

        def __getitem__(self, i):
            Endless.read += 1
            return np.random.default_rng(i).random((8, 8, 8, 1), "float32"), np.arange(8) % 3

    samples = kx.select(model, Endless(), images_per_class=2, background=5)
    assert Endless.read == 200
    assert samples.images.base is None or samples.images.base.nbytes < 10 * 8 * 8 * 4
    assert len(samples) + len(samples.missing) * 2 == 6


def test_random_generators_are_left_alone():
    class Drawing(Batches):
        def __getitem__(self, i):
            np.random.random()
            python_random.random()
            return super().__getitem__(i)

    np.random.seed(1)
    python_random.seed(1)
    before, python_before = np.random.get_state()[1].copy(), python_random.getstate()
    kx.select(MODEL, Drawing())
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    assert python_random.getstate() == python_before


IMAGES = np.random.default_rng(0).random((4, 8, 8, 1), "float32")


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ((X[:0], Y[:0]), {}, "empty"),
        (tf.data.Dataset.from_tensor_slices((X, Y)).batch(3).take(0), {}, "empty"),
        ((X, Y + 1), {}, r"label is 3, .*outputs 0 to 2"),
        ((X, Y - 1), {}, "not be negative; got -1"),
        ((X, Y + 0.5), {}, "regression has no classes"),
        ((X, ONE_HOT * 0.7), {}, "class numbers or one-hot"),
        ((X, np.zeros((7, 3))), {}, "no or several classes"),
        ((X, Y[:5]), {}, "7 images and 5 labels"),
        ((X, Y), {"class_map": {0: 3}}, "class 0 to output 3; the model has outputs 0 to 2"),
        ((X, Y), {"class_map": {}}, "class_map is empty"),
        ((X, Y), {"class_map": {0: 0.5}}, "whole numbers or None"),
        ((X, Y), {"class_map": {9: 0}}, "no class that class_map sends"),
        ((X, Y), {"images_per_class": 0}, "images_per_class must be a whole number, at least 1"),
        ((X[:, :2], Y), {}, r"shape \(2,\); .* takes \(3,\)"),
        ((X * np.nan, Y), {}, "NaN"),
        ((X, Y), {"value_range": (0, 1)}, r"0 to 9; value_range=\(0, 1\)"),
        ((np.rint(X * 25), Y), {}, "images go from 0 to 225, as raw pixels do"),
        (iter([(X, Y)]), {}, "generator, which can be read only once"),
        (5, {}, "got int"),
        ([X], {}, "must be \\(x, y\\)"),
        (({"image": X}, Y), {}, "Dictionaries"),
        (tf.data.Dataset.from_tensor_slices((X, Y)).batch(3).repeat(), {}, "repeat without end"),
    ],
)
def test_unusable_data_are_named(data, options, message):
    with pytest.raises(kx.InputError, match=message):
        kx.select(MODEL, data, **options)


def test_diverged_models_are_named():
    with pytest.raises(kx.InputError, match="NaN or infinite"):
        kx.select(linear_model(np.full((3, 3), np.nan)), (X, Y))


@pytest.mark.parametrize("names", [np.array(["down", "up"]), ["down", "up"], ("down", "up")])
def test_class_names_may_be_an_array_and_must_be_as_many_as_the_classes(names):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, activation="softmax", use_bias=False)])
    model.layers[0].kernel.assign(np.eye(2))
    data = (np.array([[3.0, 0.5], [0.5, 0.75]]), np.array([0, 1]))
    assert kx.select(model, data, class_names=names).class_name(1) == "up"
    with pytest.raises(kx.InputError, match="class_names has 3 entries; the model has 2 classes"):
        kx.select(model, data, class_names=["a", "b", "c"])


@pytest.mark.parametrize("overshoot", [0, -3])
def test_resized_raw_pixels_are_refused(overshoot, random):
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(2, activation="softmax")]
    )
    for high in (200, 259, 4095):
        images = random.uniform(overshoot, high, (4, 8, 8, 1))
        with pytest.raises(kx.InputError, match="as raw pixels do"):
            kx.select(model, (images, np.zeros(4, int)))
        kx.select(model, (images, np.zeros(4, int)), value_range=(-10, 5000))
    kx.select(model, (random.uniform(-123, 151, (4, 8, 8, 1)), np.zeros(4, int)))  # the mean of ImageNet taken away
