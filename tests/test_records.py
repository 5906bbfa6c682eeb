"""Samples and Attribution: checked when made, and the same after a trip to disk."""

import dataclasses
import json

import numpy as np
import pytest

import keras_explain as kx
from tests.conftest import small_cnn


def some_samples(n=3):
    random = np.random.default_rng(0)
    return kx.Samples(
        images=random.random((n, 8, 8, 1)),
        targets=[[0, 1]] * n,
        labels=np.arange(n),
        confidence=np.linspace(0.5, 0.9, n),
        ids=[f"c{i}.png" for i in range(n)],
        class_names=["a", "b ö", "c"],
        channel_names=["grey"],
        background=random.random((2, 8, 8, 1)),
        value_range=(-1.0, 2.0),
        roi=random.random((3, 8, 8)) < 0.2,
        missing=((4, 2),),
        accuracy=0.75,
    )


def test_a_round_survives_the_disk(tmp_path):
    samples = some_samples()
    scorer = kx.Scorer(small_cnn())
    lime = kx.Lime(10, lambda x: np.arange(64).reshape(8, 8) // 16)
    methods = [kx.Saliency(), kx.Saliency(), kx.GradientShap(samples=5), lime]
    attributions = [kx.explain(scorer, samples, method) for method in methods]
    attributions[0] = kx.metrics.measure(scorer, samples, attributions[0], ["border", "localization"])
    kx.save_round(tmp_path / "epoch_0003", samples, attributions, {"epoch": 3})
    again, found, settings = kx.load_round(tmp_path / "epoch_0003")
    assert settings == {"epoch": 3}
    for field in dataclasses.fields(samples):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(samples, field.name), err_msg=field.name)
    assert [a.method for a in found] == ["vanilla", "vanilla", "gradient_shap", "lime"]
    for one, other in zip(found, attributions, strict=True):
        for name in ("values", "targets", "rows", "score", "base_score", "standard_error", "unit"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
        for group in ("details", "measures"):
            assert getattr(one, group).keys() == getattr(other, group).keys()
            for name, array in getattr(other, group).items():
                np.testing.assert_array_equal(getattr(one, group)[name], array)
    assert len(found[0].measures) == 8
    np.testing.assert_array_equal(found[2].completeness_error, attributions[2].completeness_error)


def test_rounds_of_before_channels_had_names_are_read(tmp_path):
    kx.save_round(str(tmp_path), some_samples(), [])
    with np.load(tmp_path / "samples.npz") as file:
        old = {name: file[name] for name in file.files if name != "channel_names"}
    np.savez(tmp_path / "samples.npz", **old)
    samples, _, settings = kx.load_round(tmp_path)
    assert samples.channel_names == ()
    assert samples.channel_name(0) == "channel 1"
    assert samples.class_names == ("a", "b ö", "c")
    assert settings == {}


def test_a_folder_without_a_round_is_named(tmp_path):
    with pytest.raises(kx.InputError, match=r"holds no settings\.json"):
        kx.load_round(tmp_path)


def test_completeness_error_is_the_sum_against_the_change():
    values = np.array([[[1.0, 2.0]], [[-4.0, 1.0]]])
    found = kx.Attribution("m", values, [0, 0], [0, 1], score=[5.0, 1.0], base_score=[1.0, 3.0])
    np.testing.assert_allclose(found.completeness_error, [1, 1])
    np.testing.assert_allclose(found.relative_completeness_error, [0.25, 0.5])


def test_records_cannot_be_changed():
    samples = some_samples()
    with pytest.raises(ValueError, match="read-only"):
        samples.images[0] = 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        samples.images = None


def test_a_part_of_the_samples_keeps_what_belongs_to_it():
    part = some_samples()[[2, 0]]
    assert part.ids == ("c2.png", "c0.png")
    assert part.labels.tolist() == [2, 0]
    np.testing.assert_array_equal(part.images, some_samples().images[[2, 0]])
    assert part.value_range == (-1.0, 2.0)
    assert len(some_samples()[1]) == 1


def test_the_rows_of_one_sample():
    found = kx.explain(small_cnn(), some_samples(), "vanilla")
    found = dataclasses.replace(found, measures={"auprc": np.arange(6.0)})
    part = found.of(1)
    assert part.measures["auprc"].tolist() == [2, 3]
    np.testing.assert_array_equal(part.values, found.values[2:4])
    assert part.targets.tolist() == [0, 1]
    assert part.rows.tolist() == [0, 0]


def test_fingerprints_tell_images_apart_and_nothing_else():
    samples = some_samples()
    assert len(set(samples.fingerprints)) == 3
    assert samples[[2]].fingerprints[0] == samples.fingerprints[2]
    assert dataclasses.replace(samples, ids=("x", "y", "z")).fingerprints == samples.fingerprints


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": [0]}, "targets has 1 entries for 3 images"),
        ({"ids": ("a",)}, "ids has 1 entries"),
        ({"labels": [1, 2]}, "labels has 2 entries"),
        ({"background": np.zeros((2, 4, 4, 1))}, r"background has images of shape \(4, 4, 1\)"),
        ({"images": np.full((3, 8, 8, 1), np.nan)}, r"NaN or infinity in c0\.png, c1\.png"),
    ],
)
def test_samples_that_do_not_fit_are_named(change, message):
    with pytest.raises(kx.InputError, match=message):
        dataclasses.replace(some_samples(), **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": [1.0]}, "score has 1 entries for 2 maps"),
        ({"standard_error": np.zeros((1, 3))}, "standard_error has 1 entries"),
        ({"values": np.array([[1.0], [np.inf]])}, "not finite"),
        ({"details": {"r2": [0.5]}}, r"details\['r2'\] has shape \(1,\) for 2 maps"),
        ({"measures": {"auprc": 0.5}}, r"measures\['auprc'\] has shape \(\) for 2 maps"),
    ],
)
def test_attributions_that_do_not_fit_are_named(change, message):
    fields = {"method": "m", "values": np.ones((2, 3)), "targets": [0, 1], "rows": [0, 1], "score": [1.0, 2.0]}
    with pytest.raises(kx.InputError, match=message):
        kx.Attribution(**{**fields, **change})


def test_what_is_printed_fits_on_a_line():
    samples = kx.Samples(np.zeros((2, 4, 5, 1)), [[0, 1], [1, 0]], background=np.zeros((3, 4, 5, 1)))
    assert repr(samples) == "Samples: 2 images of 4 x 5 x 1, 4 targets, background of 3"
    found = kx.Attribution("mine", np.ones((1, 4, 5, 1)), [0], [0], [1.0], unit="logit")
    assert repr(found) == "Attribution of mine: 1 maps of 4 x 5 x 1, in logit"


def test_a_damaged_round_is_an_error_and_nothing_else(tmp_path):
    """Cut off, and with bytes exchanged in every file: what is read is right, or the error is ours."""
    samples = kx.Samples(np.random.default_rng(0).random((2, 4, 4, 1)), [0, 1], ids=["a", "b"])
    found = kx.Attribution("mine", np.ones((2, 4, 4, 1)), [0, 1], [0, 1], score=[1.0, 2.0])
    kx.save_round(tmp_path, samples, [found], {"title": "whole"})
    random, refused = np.random.default_rng(1), 0
    for file in sorted(tmp_path.iterdir()):
        whole = file.read_bytes()
        for attempt in range(60):
            bad = bytearray(whole)
            for place in random.integers(0, len(bad), 1 + attempt % 4):
                bad[place] = random.integers(0, 256)
            file.write_bytes(bad if attempt % 3 else whole[: random.integers(0, len(whole))])
            try:
                again, maps, _ = kx.load_round(tmp_path)
            except kx.InputError:
                refused += 1
            else:
                assert isinstance(again, kx.Samples)
                assert isinstance(maps, list)
        file.write_bytes(whole)
    assert refused > 60


def test_a_round_reads_nothing_outside_of_its_folder(tmp_path):
    samples = kx.Samples(np.zeros((1, 4, 4, 1)), [0])
    found = kx.Attribution("mine", np.ones((1, 4, 4, 1)), [0], [0], score=[1.0])
    for name in ("one", "two"):
        kx.save_round(tmp_path / name, samples, [found])
    settings = json.loads((tmp_path / "one" / "settings.json").read_text())
    settings["methods"] = {"../two/mine": settings["methods"]["mine"]}
    (tmp_path / "one" / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(kx.InputError, match=r"'\.\./two/mine' is no name of a method's file"):
        kx.load_round(tmp_path / "one")
