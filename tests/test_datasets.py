"""Phantoms that teach and tell the truth, and real mini-MIAS as it is on disk."""

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

import keras_explain as kx
from keras_explain.datasets import mias, phantom, read


def test_phantoms_are_the_same_wherever_they_are_made():
    whole = phantom.mammograms(12, size=48, seed=4)
    part = phantom.mammograms(3, size=48, seed=4, first=7)
    np.testing.assert_array_equal(part.images, whole.images[7:10])
    np.testing.assert_array_equal(part.masks, whole.masks[7:10])
    stream = phantom.Stream(12, batch_size=5, size=48, seed=4, channels=3)
    assert [len(stream[i][0]) for i in range(len(stream))] == [5, 5, 2]
    np.testing.assert_array_equal(stream[1][0][..., 2], whole.images[5:10, ..., 0])
    np.testing.assert_array_equal(stream[1][1], whole.labels[5:10])
    assert np.abs(phantom.mammograms(1, 48, seed=5).images - whole.images[:1]).max() > 0.1


def test_five_classes_in_turn_within_the_range():
    images, labels, masks = phantom.mammograms(50, size=64)
    assert labels.tolist() == list(range(5)) * 10
    assert images.dtype == "float32"
    assert 0 <= images.min() < images.max() <= 1
    assert masks.any(axis=(1, 2)).tolist() == (labels > 0).tolist()
    background = (images == 0).mean(axis=(1, 2, 3))
    assert (background > 0.1).all()
    assert (background < 0.8).all()


@pytest.mark.parametrize("label", [1, 2, 3, 4])
def test_the_lesion_lies_in_the_mask_and_nowhere_else(label, monkeypatch):
    """The same phantom with and without its lesion differs inside the mask only."""
    plant = phantom._PLANTS[label]

    def plant_nothing(*arguments):  # but consume the generator alike
        lesion, mask = plant(*arguments)
        return 0 * lesion, mask

    for index in range(12):
        with_it, mask = phantom._mammogram(96, label, np.random.default_rng([0, index]), ())
        with monkeypatch.context() as patch:
            patch.setitem(phantom._PLANTS, label, plant_nothing)
            without, _ = phantom._mammogram(96, label, np.random.default_rng([0, index]), ())
        change = np.abs(with_it - without)
        assert change[mask].max() > 0.1
        assert change[~ndimage.binary_dilation(mask, iterations=3)].max() < 0.05


def test_malignant_calcifications_are_finer_and_more_than_benign_ones():
    def specks(label):
        counts = []
        for index in range(12):
            random = np.random.default_rng([1, index])
            y, x = np.mgrid[0:256, 0:256] / 255.0
            image, _ = phantom._PLANTS[label](y, x, 0.5, 0.5, 256, random)
            counts.append((ndimage.label(image > 0.2)[1], (image > 0.2).sum()))
        return np.mean(counts, axis=0)

    (few, large), (many, small) = specks(1), specks(3)
    assert many > 2 * few
    assert small / many < 0.5 * large / few


@pytest.mark.parametrize(("n", "size"), [(0, 64), (5, 16)])
def test_phantoms_that_cannot_be_made_are_refused(n, size):
    with pytest.raises(kx.InputError, match="n must be at least 1 and size at least 32"):
        phantom.mammograms(n, size)


INFO = """Some prose about the data, mdb001 among it.

mdb001 G CIRC B 535 425 197
mdb003 D NORM
mdb005 F CIRC B 477 133 30
mdb005 F CIRC B 500 168 26
mdb059 F CIRC B
mdb213 G CALC M 547 520 45
mdb216 D CALC M *NOTE 3*
"""


def test_info_txt_is_read_with_its_quirks(tmp_path):
    (tmp_path / "Info.txt").write_text(INFO)
    findings = mias.read_info(tmp_path / "Info.txt")
    assert [f.reference for f in findings] == ["mdb001", "mdb003", "mdb005", "mdb005", "mdb059", "mdb213", "mdb216"]
    assert (findings[0].row, findings[0].column, findings[0].radius) == (1024 - 425, 535, 197)
    assert [f.label for f in findings] == [2, 0, 2, 2, 2, 3, 3]
    assert [f.row for f in findings if f.reference in ("mdb003", "mdb059", "mdb216")] == [None, None, None]
    assert findings[0].woman == 1 != findings[1].woman == 2


def test_files_that_are_not_mias_are_named(tmp_path):
    with pytest.raises(kx.InputError, match="does not exist"):
        mias.read_info(tmp_path / "Info.txt")
    (tmp_path / "Info.txt").write_text("nothing of the kind")
    with pytest.raises(kx.InputError, match="has no row such as"):
        mias.read_info(tmp_path / "Info.txt")
    (tmp_path / "Info.txt").write_text(INFO)
    with pytest.raises(kx.InputError, match="holds none of the pictures"):
        mias.crops(tmp_path)


def test_a_crop_shows_the_finding_where_the_mask_says(tmp_path):
    (tmp_path / "Info.txt").write_text("mdb001 G CIRC B 300 700 20\n")
    pixels = np.zeros((1024, 1024), "uint8")
    y, x = np.mgrid[0:1024, 0:1024]
    pixels[np.hypot(y - (1024 - 700), x - 300) <= 20] = 200
    Image.fromarray(pixels).save(tmp_path / "mdb001.pgm")
    for shift in (0, 30):
        images, labels, masks, _, _ = mias.crops(tmp_path, size=80, region=160, copies=3, shift=shift)
        assert labels.tolist() == [2, 2, 2]
        for image, mask in zip(images[..., 0], masks, strict=True):
            assert mask.sum() == pytest.approx(np.pi * 10**2, rel=0.05)
            assert (image[mask] > 0.3).mean() > 0.97
            assert image[~ndimage.binary_dilation(mask, iterations=2)].max() == 0


def test_no_woman_is_on_both_sides(test_data):
    train, held_out = mias.crops(test_data / "mias", size=32).split()
    assert not set(train.women) & set(held_out.women)
    assert set(train.labels) == set(held_out.labels) == {0, 1, 2, 3, 4}
    again, _ = mias.crops(test_data / "mias", size=32, copies=2, shift=5).split()
    assert set(again.women) == set(train.women)


def test_real_findings_are_brighter_than_what_surrounds_them(test_data):
    """So they are only if the origin at the bottom left was understood."""
    findings = [f for f in mias.read_info(test_data / "mias" / "Info.txt") if f.radius and f.kind in ("CIRC", "SPIC")]
    y, x = np.mgrid[0:1024, 0:1024]
    brighter = []
    for finding in findings:
        path = test_data / "mias" / f"{finding.reference}.pgm"
        if path.exists():
            pixels = np.asarray(Image.open(path)).astype(float)
            distance = np.hypot(y - finding.row, x - finding.column)
            ring = pixels[(distance > 1.2 * finding.radius) & (distance < 2 * finding.radius)]
            brighter.append(pixels[distance < finding.radius].mean() > ring.mean())
    assert len(brighter) > 15
    assert np.mean(brighter) > 0.85


def test_whole_mammograms_of_mias_are_split_by_woman(test_data):
    train, test = (read(test_data / "mias", part) for part in ("train", "test"))
    assert len(train) > 3 * len(test) > 30
    assert len(train) + len(test) == len(list((test_data / "mias").glob("*.pgm")))
    assert not {case.group for case in train} & {case.group for case in test}
    cases = {case.id: case for case in [*train, *test]}
    assert cases["mdb001"].label == 2
    with Image.open(test_data / "mias" / "mdb001.pgm") as picture:
        np.testing.assert_array_equal(cases["mdb001"].read(), np.asarray(picture))
    rows, columns = np.nonzero(cases["mdb001"].roi().mask())
    np.testing.assert_allclose([rows.mean(), columns.mean()], [1024 - 425, 535], atol=1)
    assert not cases["mdb009"].roi().mask().any() or cases["mdb009"].label > 0


def test_a_mammogram_with_several_findings_has_the_label_of_the_worst(tmp_path):
    rows = ["mdb144 G MISC B 233 994 29", "mdb144 G MISC M 313 540 27", "mdb003 D NORM"]
    (tmp_path / "Info.txt").write_text("\n".join(rows) + "\n")
    for name in ("mdb144", "mdb003"):
        Image.fromarray(np.zeros((1024, 1024), "uint8")).save(tmp_path / f"{name}.pgm")
    two, normal = mias.mammograms(tmp_path)
    assert (two.label, normal.label) == (4, 0)
    assert len(two.roi().shapes) == 2
    assert not normal.roi().mask().any()
