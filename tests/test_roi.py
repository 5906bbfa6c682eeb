"""Regions of interest, followed through what is done to the picture, and into the samples."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import keras_explain as kx
from keras_explain.callbacks import ExplanationCallback
from keras_explain.datasets.roi import Box, Circle, Mask, Polygon, Roi
from tests.conftest import small_cnn

SHAPES = {
    "circle": Circle(70, 30, 17),
    "box": Box(55, 10, 83, 51),
    "polygon": Polygon([(60, 12), (90, 40), (48, 55)]),
    "mask": Mask(np.kron(np.eye(10), np.ones((10, 10)))),
}


def painted(shape, height=100, width=100):
    """The source image itself with the region in white, made without Roi: a pixel is in if its centre is."""
    y, x = np.mgrid[0:height, 0:width] + 0.5
    if isinstance(shape, Circle):
        inside = (y - shape.y) ** 2 + (x - shape.x) ** 2 <= shape.radius**2
    elif isinstance(shape, Box):
        inside = (y > shape.top) & (y < shape.bottom) & (x > shape.left) & (x < shape.right)
    elif isinstance(shape, Mask):
        inside = np.array(shape.pixels) > 0
    else:
        inside = np.zeros((height, width), bool)
        corners = shape.points
        for (x1, y1), (x2, y2) in zip(corners, [*corners[1:], corners[0]], strict=True):  # crossings to the right
            crossing = ((y1 > y) != (y2 > y)) & (x < (x2 - x1) * (y - y1) / (y2 - y1) + x1)
            inside ^= crossing
    return inside


@pytest.mark.parametrize("name", SHAPES)
def test_each_shape_is_what_it_says(name):
    np.testing.assert_array_equal(Roi((100, 100), [SHAPES[name]]).mask(), painted(SHAPES[name]))


@pytest.mark.parametrize("name", SHAPES)
def test_the_region_goes_where_the_picture_goes(name):
    """Each step is done to the picture by numpy or Pillow, and to the region by Roi."""
    roi, picture = Roi((100, 100), [SHAPES[name]]), painted(SHAPES[name])
    np.testing.assert_array_equal(roi.flip("horizontal").mask(), picture[:, ::-1])
    np.testing.assert_array_equal(roi.flip("vertical").mask(), picture[::-1])
    np.testing.assert_array_equal(roi.crop(5, 40, 60, 50).mask(), picture[5:65, 40:90])
    padded = np.pad(picture, ((10, 0), (0, 20)))
    np.testing.assert_array_equal(roi.crop(-10, 0, 110, 120).mask(), padded)
    chain = roi.flip("horizontal").crop(3, 8, 90, 72).resize(45, 24).flip("vertical").crop(1, 2, 40, 20)
    scaled = Image.fromarray((picture[:, ::-1][3:93, 8:80] * 255).astype("uint8")).resize(
        (24, 45), Image.Resampling.BOX
    )
    expected = np.asarray(scaled)[::-1][1:41, 2:22] / 255
    sure = np.abs(expected - 0.5) > 0.1
    np.testing.assert_array_equal(chain.mask()[sure], expected[sure] > 0.5)
    assert sure.mean() > 0.9
    larger = roi.resize(200, 300).mask()
    assert (larger == np.kron(picture, np.ones((2, 3), bool))).mean() > 0.98


def test_the_origin_can_be_below():
    below, above = Circle(30, 80, 9, origin="lower left"), Circle(30, 20, 9)
    np.testing.assert_array_equal(Roi((100, 60), [below]).mask(), Roi((100, 60), [above]).mask())


def test_none_and_several():
    assert not Roi((10, 12)).mask().any()
    assert Roi((10, 12)).mask().shape == (10, 12)
    both = Roi((100, 100), [SHAPES["circle"], SHAPES["mask"]]).mask()
    np.testing.assert_array_equal(both, painted(SHAPES["circle"]) | painted(SHAPES["mask"]))


def test_a_mask_may_have_other_measures_than_the_image():
    coarse = np.zeros((5, 10))
    coarse[1, 2] = 7
    expected = np.zeros((100, 100), bool)
    expected[20:40, 20:30] = True
    np.testing.assert_array_equal(Roi((100, 100), [Mask(coarse)]).mask(), expected)


def test_a_tiny_region_does_not_vanish():
    mask = Roi((1000, 1000), [Circle(503, 707, 3)]).resize(50, 50).mask()
    assert np.argwhere(mask).tolist() == [[35, 25]]
    assert not Roi((1000, 1000), [Circle(503, 707, 3)]).crop(0, 0, 500, 500).resize(50, 50).mask().any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Circle(1, 1, 0), "a positive radius; got Circle"),
        (lambda: Circle(1, 1, 2, origin="bottom"), "origin must be 'upper left' or 'lower left'; got 'bottom'"),
        (lambda: Box(5, 0, 5, 2), "A box needs left < right"),
        (lambda: Polygon([(0, 0), (1, 1)]), "three or more pairs"),
        (lambda: Mask(np.zeros((2, 2, 3))), r"must be a mask \(h, w\); got shape \(2, 2, 3\)"),
        (lambda: Roi((0, 5)), "source must be a height and a width"),
        (lambda: Roi((5, 5)).resize(0, 5), "size must be a height and a width"),
        (lambda: Roi((5, 5)).flip("left"), "direction must be 'horizontal' or 'vertical'"),
    ],
)
def test_what_is_no_region_is_refused(make, message):
    with pytest.raises(kx.InputError, match=message):
        make()


# Into the samples

X = np.random.default_rng(0).random((30, 8, 8, 1)).astype("float32")
MASKS = np.random.default_rng(1).random((30, 8, 8)) < 0.3


@pytest.fixture(scope="module")
def model():
    return small_cnn()


@pytest.fixture(scope="module")
def labels(model):
    return model.predict(X, verbose=0).argmax(axis=1)  # all are right


def test_samples_carry_the_region_of_their_own_image(model, labels):
    ways = {
        "sequence": MASKS,
        "dict": dict(enumerate(MASKS)),
        "dict of names": {str(i): mask for i, mask in enumerate(MASKS)},
        "function": lambda name: MASKS[int(name)],
        "objects": [Roi((8, 8), [Mask(mask)]) for mask in MASKS],
    }
    for way, roi in ways.items():
        samples = kx.select(model, (X, labels), images_per_class=2, roi=roi)
        np.testing.assert_array_equal(samples.roi, MASKS[list(map(int, samples.ids))], err_msg=way)
        np.testing.assert_array_equal(samples[1:3].roi, samples.roi[1:3])
    assert len(kx.select(model, (X, labels)).roi) == 0


def test_an_image_without_a_region_has_an_empty_one(model, labels):
    chosen = kx.select(model, (X, labels)).ids
    samples = kx.select(model, (X, labels), roi={chosen[0]: MASKS[0], chosen[1]: None})
    np.testing.assert_array_equal(samples.roi[0], MASKS[0])
    assert not samples.roi[1:].any()


def test_regions_in_the_order_of_data_that_have_none_are_refused(model, labels):
    shuffled = tf.data.Dataset.from_tensor_slices((X, labels)).shuffle(30, seed=0).batch(8)
    with pytest.raises(
        kx.InputError, match="The data give other images first at every pass: they are shuffled or augmented"
    ):
        kx.select(model, shuffled, roi=MASKS)
    still = tf.data.Dataset.from_tensor_slices((X, labels)).batch(8)
    samples = kx.select(model, still, roi=list(MASKS))
    np.testing.assert_array_equal(samples.roi, MASKS[list(map(int, samples.ids))])


def test_ids_of_the_data_name_the_regions(model, labels):
    names = np.array([f"case {i}" for i in range(30)])
    roi = dict(zip(names, MASKS, strict=True))
    samples = kx.select(model, (X, labels, None, names), roi=roi)
    np.testing.assert_array_equal(samples.roi, [roi[name] for name in samples.ids])


def test_regions_that_do_not_fit_are_named(model, labels):
    with pytest.raises(kx.InputError, match=r"roi of image \d+ has shape \(4, 8\); the image has \(8, 8\)"):
        kx.select(model, (X, labels), roi=MASKS[:, :4])
    with pytest.raises(kx.InputError, match="roi has 1 entries for 30 images"):
        kx.select(model, (X, labels), roi=MASKS[:1])
    batches = tf.data.Dataset.from_tensor_slices((X, labels)).batch(8)
    with pytest.raises(kx.InputError, match="roi has 1 entries, and the data an image at position"):
        kx.select(model, batches, roi=MASKS[:1])
    with pytest.raises(kx.InputError, match=r"roi has shape \(2, 4, 4\); the samples need \(2, 8, 8\)"):
        kx.Samples(X[:2], [0, 0], roi=np.zeros((2, 4, 4)))


def test_what_can_not_be_a_region_is_refused_at_once(model, labels):
    """By the callback too, since in training it would cost every round."""
    wrong = [
        ("masks", "roi must be a dict or function of an image's id, or a sequence; got str"),
        (MASKS[:7], "roi has 7 entries for 30 images"),
        (MASKS[:, ::2], r"roi of image 0 has shape \(4, 8\); the image has \(8, 8\)"),
        ({3: np.full((8, 8), np.nan)}, "roi of image 3 has NaN or infinite entries"),
    ]
    for roi, words in wrong:
        with pytest.raises(kx.InputError, match=words):
            ExplanationCallback((X, labels), roi=roi)
    later = [
        (
            {f"{i}.png": MASKS[i] for i in range(30)},
            r"None of roi's 30 ids \('0.png', ...\) is the id of an image; .*'0'",
        ),
        (lambda name: MASKS[name], r"roi\('\d+'\) failed. IndexError"),
        (lambda name: Circle(3, 3, 1), r"is a Circle; give a mask, None or Roi\(\(8, 8\), \[shapes\]\)"),
    ]
    for roi, words in later:
        with pytest.raises(kx.InputError, match=words):
            kx.select(model, (X, labels), roi=roi)
    with pytest.raises(kx.InputError, match="metrics asks for the localization; give in roi"):
        ExplanationCallback((X, labels), metrics=["localization"])
    with pytest.raises(kx.InputError, match="source must be a height and a width"):
        Roi(48)
    with pytest.raises(kx.InputError, match="shapes must be a list of Circle"):
        Roi((48, 48), Circle(3, 3, 1))


def test_small_and_several_regions_do_not_vanish():
    assert Roi((100, 100), [Circle(50, 50, 0.4)]).mask().sum() >= 1  # between four centres
    assert Roi((100, 100), [Polygon([(10.1, 5), (10.3, 5), (10.3, 90), (10.1, 90)])]).mask().sum() >= 80
    large, small = Circle(200, 200, 150), Circle(503, 707, 3)
    both = Roi((1000, 1000), [large, small]).resize(50, 50).mask()
    alone = [Roi((1000, 1000), [shape]).resize(50, 50).mask() for shape in (large, small)]
    assert alone[1].sum() == 1
    np.testing.assert_array_equal(both, alone[0] | alone[1])
    assert not Roi((100, 100), [Circle(50, 50, 3)]).crop(0, 0, 20, 20).mask().any()  # outside


def test_edges_belong_to_one_side():
    """Points at the distance of the radius are in; of a box, the left edge is and the right is not."""
    y, x = np.array([[30.0]]), np.array([[87.0, 53.0, 87.1]])
    np.testing.assert_array_equal(Circle(70, 30, 17).contains(y, x, (100, 100)), [[True, True, False]])
    np.testing.assert_array_equal(Box(53, 30, 87, 40).contains(y, x, (100, 100)), [[False, True, False]])


def test_masks_of_other_measures_than_the_source():
    mask = np.zeros((10, 40))
    mask[2:4, 30:36] = 1
    expected = np.zeros((50, 80), bool)
    expected[10:20, 60:72] = True
    np.testing.assert_array_equal(Roi((50, 80), [Mask(mask)]).mask(), expected)
    np.testing.assert_array_equal(Roi((50, 80), [Mask(mask.tolist())]).mask(), expected)


@pytest.mark.parametrize(("covered", "columns"), [(21, 5), (19, 4)])
def test_a_pixel_belongs_to_the_region_that_covers_half_of_it(covered, columns):
    mask = Roi((400, 400), [Box(0, 0, 160 + covered, 80)]).resize(10, 10).mask()  # 40 source pixels a side
    np.testing.assert_array_equal(np.argwhere(mask).max(axis=0), [1, columns - 1])
