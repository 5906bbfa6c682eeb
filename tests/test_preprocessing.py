"""One way from the file to the model, for training, selection, explanation and report, and loud when it is left."""

import json

import keras
import numpy as np
import pytest
from keras import layers

import keras_explain as kx
from keras_explain.callbacks import ExplanationCallback
from keras_explain.datasets.cases import Case, Stream
from keras_explain.datasets.preprocessing import Preprocessing
from keras_explain.datasets.roi import Box, Roi


def test_the_formula_in_numbers():
    pixels = np.array([[0, 51], [102, 255]], "uint8")
    image = Preprocessing(size=(2, 2), channels=1)(pixels)
    np.testing.assert_allclose(image[..., 0], [[0, 0.2], [0.4, 1]], atol=1e-7)
    three = Preprocessing(size=(2, 2), channels=3, scale=(-1, 1))(pixels[..., None])
    np.testing.assert_allclose(three, np.repeat((pixels / 127.5 - 1)[..., None], 3, axis=-1), atol=1e-6)
    windowed = Preprocessing(size=(2, 2), channels=1, window=(51, 153))(pixels)
    np.testing.assert_allclose(windowed[..., 0], [[0, 0], [0.5, 1]], atol=1e-7)
    own = Preprocessing(size=(2, 2), channels=1, window="image")(pixels.astype("float64") * 7 + 3)
    np.testing.assert_allclose(own[..., 0], [[0, 0.2], [0.4, 1]], atol=1e-6)
    sixteen = Preprocessing(size=(2, 2), channels=1)(np.array([[0, 65535], [13107, 0]], ">u2"))
    np.testing.assert_allclose(sixteen[..., 0], [[0, 1], [0.2, 0]], atol=1e-6)
    colour = Preprocessing(size=(1, 1), channels=1)(np.array([[[0, 51, 102]]], "uint8"))
    np.testing.assert_allclose(colour, [[[0.2]]], atol=1e-7)
    kept = Preprocessing(size=(1, 1), channels=3)(np.array([[[0, 51, 102]]], "uint8"))
    np.testing.assert_allclose(kept, [[[0, 0.2, 0.4]]], atol=1e-7)


def test_scaling_keeps_mean_and_place():
    pixels = np.zeros((40, 60), "uint8")
    pixels[10:20, 30:60] = 200
    image = Preprocessing(size=(20, 30), channels=1)(pixels)[..., 0]
    assert image.shape == (20, 30)
    assert image.mean() == pytest.approx(pixels.mean() / 255, rel=1e-3)
    mask = Preprocessing(size=(20, 30)).region(Roi((40, 60), [Box(30, 10, 60, 20)])).mask()
    np.testing.assert_array_equal(image > 0.4, mask)
    assert Preprocessing(size=(20, 30))(pixels[:, :0:-1]).dtype == "float32"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": (0, 5)}, "size must be a whole number, at least 1; got 0"),
        ({"size": 299}, "size must be a height and a width; got 299"),
        ({"channels": 2}, "channels must be 1 or 3; got 2"),
        ({"scale": (1, 0)}, "scale must be two numbers, the first below the second"),
        ({"window": "auto"}, "window must be two numbers"),
        ({"window": (0, np.nan)}, "window must be two numbers"),
        ({"scale": ("a", "b")}, "scale must be two numbers"),
    ],
)
def test_records_that_cannot_be_are_refused(options, words):
    with pytest.raises(kx.InputError, match=words):
        Preprocessing(**options)


def test_pictures_that_do_not_tell_their_range_are_refused():
    prepare = Preprocessing(size=(4, 4))
    with pytest.raises(kx.InputError, match="float64 in 0 to 255 does not tell what is black and white; give window="):
        prepare(np.array([[0.0, 255.0]]))
    with pytest.raises(kx.InputError, match="must be finite"):
        prepare(np.array([[0.0, np.nan]]))
    with pytest.raises(kx.InputError, match=r"must be \(h, w\), .* got \(2, 2, 2\)"):
        prepare(np.zeros((2, 2, 2), "uint8"))


def test_a_record_survives_the_settings_of_a_run(tmp_path):
    record = Preprocessing((8, 9), 1, (-1.0, 1.0), (12.0, 4000.0))
    (tmp_path / "settings.json").write_text(json.dumps({"preprocessing": record.as_settings(), "title": "x"}))
    assert Preprocessing.from_settings(tmp_path / "settings.json") == record
    assert Preprocessing(window=np.array([12, 4000])) == Preprocessing(window=(12, 4000))
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(kx.InputError, match=r"is no settings.json of an explained round"):
        Preprocessing.from_settings(tmp_path / "settings.json")
    (tmp_path / "settings.json").write_text("{}")
    with pytest.raises(kx.InputError, match="There is no record of the preprocessing"):
        Preprocessing.from_settings(tmp_path / "settings.json")
    with pytest.raises(kx.InputError, match=r"does not exist; give the settings.json"):
        Preprocessing.from_settings(tmp_path / "absent.json")


@pytest.mark.parametrize(
    ("factor", "shown"),
    [(255, "0 to 255"), (1 / 255, "0 to 0.00392157")],  # a picture never divided, and one divided twice
)
def test_ranges_of_the_usual_mistakes_are_errors_that_show_both(factor, shown):
    images = np.linspace(0, 1, 2 * 16 * 3).reshape(2, 4, 4, 3) * factor
    with pytest.raises(kx.InputError, match=f"images lie in {shown}; what the model was trained on lies in 0 to 1"):
        Preprocessing(size=(4, 4)).check(images)
    Preprocessing(size=(4, 4)).check(images / factor)
    with pytest.raises(kx.InputError, match=r"images have shape \(4, 4, 3\); .* gives \(4, 4, 1\)"):
        Preprocessing(size=(4, 4), channels=1).check(images / factor)


SIDE = 12


def cases(n=20):
    """Pictures of 24 x 24 whose upper half is bright in class 1 of the data set and dark in class 3."""

    def read(i):
        pixels = np.random.default_rng(i).integers(0, 40, (24, 24), "uint8")
        pixels[:12] += np.uint8(150 if i % 4 == 1 else 0)
        return pixels

    return [
        Case(
            f"case{i}", i % 4, lambda i=i: read(i), (lambda: Roi((24, 24), [Box(0, 0, 24, 12)])) if i % 4 == 1 else None
        )
        for i in range(n)
    ]


def build():
    keras.utils.set_random_seed(0)
    steps = [keras.Input((SIDE, SIDE, 3)), layers.Conv2D(4, 3, activation="relu"), layers.GlobalAveragePooling2D()]
    model = keras.Sequential([*steps, layers.Dense(2, activation="softmax")])
    model.compile(keras.optimizers.Adam(0.05), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def stream(**options):
    return Stream(cases(), Preprocessing((SIDE, SIDE)), class_map={1: 0, 3: 1}, **options)


def test_a_stream_gives_what_fit_needs():
    data = stream(batch_size=4)
    assert len(data) == 3
    assert data.ids == tuple(f"case{i}" for i in range(1, 20, 2))
    assert np.concatenate([data[k][1] for k in range(3)]).tolist() == [0, 1] * 5
    assert data.class_weight == {0: 1.0, 1: 1.0}
    uneven = Stream(cases(6), Preprocessing((SIDE, SIDE)))  # classes 0 1 2 3 0 1
    assert uneven.class_weight == {0: 6 / 8, 1: 6 / 8, 2: 6 / 4, 3: 6 / 4}
    np.testing.assert_array_equal(data[2][0], np.stack([data.image(8), data.image(9)]))
    mixed = stream(shuffle=True, batch_size=4)
    assert sorted(mixed.ids) == sorted(data.ids)
    before = mixed.ids
    assert before != data.ids
    mixed.on_epoch_end()
    assert mixed.ids != before
    for k in range(3):  # names, images and labels stay together
        for name, image, label in zip(mixed.ids[4 * k :], *mixed[k], strict=False):
            at = data.ids.index(name)
            np.testing.assert_array_equal(image, data.image(at))
            assert label == data.labels[at]
    assert stream(shuffle=True, batch_size=4).ids == before


def test_seeds_give_orders_and_classes_can_map_to_nothing():
    assert stream(shuffle=True, seed=1).ids != stream(shuffle=True, seed=2).ids
    some = Stream(cases(), Preprocessing((SIDE, SIDE)), class_map={0: None, 1: 0, 3: 1})
    assert some.ids == stream().ids
    assert some.labels.dtype.kind == "i"
    with pytest.raises(kx.InputError, match="class_map must be a dict; got ClassMap"):
        Stream(cases(), Preprocessing((SIDE, SIDE)), class_map=kx.ClassMap({1: 0}))
    with pytest.raises(kx.InputError, match="There is no case 'case99'"):
        stream().roi("case99")
    with pytest.raises(kx.InputError, match="give model outputs as labels already"):
        ExplanationCallback(stream(), class_map={1: 0, 3: 1})


def test_a_scale_beyond_one_is_known_from_the_stream():
    """A model trained on 0 to 255 gets its pictures so, and the guess that they were forgotten is not made."""
    data = Stream(cases(), Preprocessing((SIDE, SIDE), scale=(0, 255)), class_map={1: 0, 3: 1})
    assert len(kx.select(build(), data)) + len(kx.select(build(), data).missing) == 2
    with pytest.raises(kx.InputError, match="as raw pixels do"):
        kx.select(build(), (np.concatenate([data[0][0]]), data[0][1]))


def test_flat_pictures_have_no_range_to_judge():
    Preprocessing().check_range(0.3, 0.3)
    with pytest.raises(kx.InputError, match="need window="):
        Preprocessing().check_range(0.3, 0.31)


def test_streams_without_cases_or_with_names_twice_are_refused():
    with pytest.raises(kx.InputError, match="'case1' stands for several"):
        Stream([*cases(3), cases(3)[1]], Preprocessing((SIDE, SIDE)))
    with pytest.raises(kx.InputError, match=r"of the classes \[0, 1, 2, 3\], class_map keeps none"):
        Stream(cases(), Preprocessing((SIDE, SIDE)), class_map={7: 0})
    broken = Stream([Case("bad", 0, lambda: np.zeros((2, 2)))], Preprocessing((SIDE, SIDE)))
    with pytest.raises(kx.InputError, match="bad: A picture of float64"):
        broken[0]


def test_selection_and_training_take_names_regions_and_preprocessing_from_the_stream(tmp_path):
    data = stream(batch_size=4)
    explain = ExplanationCallback(
        data, ["vanilla"], class_names=["bright", "dark"], tracker=kx.DirectoryTracker(tmp_path), on_error="raise"
    )
    model = build()
    model.fit(stream(shuffle=True), validation_data=data, epochs=3, callbacks=[explain], verbose=0)
    samples, _, settings = kx.load_round(tmp_path / "explanations" / "epoch_0002")
    assert set(samples.ids) <= set(data.ids)
    assert Preprocessing.from_settings(tmp_path / "explanations" / "epoch_0002" / "settings.json") == data.preprocessing
    assert settings["roi"] == "given"
    for i, name in enumerate(samples.ids):
        at = data.ids.index(name)
        np.testing.assert_array_equal(samples.images[i], data.image(at))
        expected = np.zeros((SIDE, SIDE), bool)
        expected[: SIDE // 2] = data.labels[at] == 0
        np.testing.assert_array_equal(samples.roi[i], expected)
    with pytest.raises(kx.InputError, match="give model outputs as labels already"):
        kx.select(model, data, class_map={1: 0, 3: 1})


def test_what_the_model_did_not_see_is_refused_with_both_ranges():
    """Pictures of a window that was not trained on, and a record for another model."""
    model = build()
    faint = Stream(cases(), Preprocessing((SIDE, SIDE), window=(0, 65535)), class_map={1: 0, 3: 1})
    with pytest.raises(
        kx.InputError, match=r"images lie in 0.0001\d* to 0.0027\d*; what the model was trained on lies in 0 to 1"
    ):
        kx.select(model, faint)
    other = Stream(cases(), Preprocessing((SIDE, 5)), class_map={1: 0, 3: 1})
    with pytest.raises(kx.InputError, match=r"takes images \(12, 12, 3\); .* gives \(12, 5, 3\)"):
        kx.select(model, other)
