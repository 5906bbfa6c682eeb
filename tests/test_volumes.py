"""Volumes (d, h, w, c), signals (length, c) and pictures of many channels: every method, every metric, every figure."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers
from scipy import ndimage

import keras_explain as kx
from keras_explain.callbacks import ExplanationCallback
from keras_explain.datasets.cells import CLASS_NAMES, cells
from keras_explain.explainers.masking import hidden_image
from keras_explain.figures.channels import projections
from keras_explain.metrics.context import Context
from tests import reference
from tests.test_figures import pixels, words

SHAPES = [(3, 4, 5, 2), (9, 2), (4, 5, 6)]


def setup(shape, n=2):
    net = reference.Mlp(shape)
    images = np.random.default_rng(1).normal(0.3, 1, (n, *shape)).astype("float32")
    return net, images


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_method_is_its_twin_whatever_the_axes(shape):
    net, images = setup(shape)
    scorer, targets = kx.Scorer(net.keras()), np.array([[0, 2], [1, 0]])
    pairs = [(i, k) for i in range(2) for k in targets[i]]
    for rule in ("vanilla", "guided", "rectified"):
        found = kx.explain(scorer, images, rule, targets=targets)
        expected = [net.gradient(images[i], k, rule) for i, k in pairs]
        np.testing.assert_allclose(found.values, expected, rtol=1e-4, atol=1e-5)
    found = kx.explain(scorer, images, kx.IntegratedGradients(500), targets=targets)
    expected = [reference.integrated_gradients(net, images[i].astype("float64"), k, np.zeros(shape)) for i, k in pairs]
    np.testing.assert_allclose(found.values, expected, atol=5e-3)
    background = np.random.default_rng(2).normal(0, 1, (3, *shape)).astype("float32")
    explainer = kx.GradientShap(background, samples=10)
    found = kx.explain(scorer, images, explainer, targets=targets)
    index, alpha = explainer._points(3)
    expected = [
        reference.gradient_shap(net, images[i].astype("float64"), k, background, index, alpha)[0] for i, k in pairs
    ]
    np.testing.assert_allclose(found.values, expected, rtol=1e-3, atol=1e-4)
    segments = np.arange(np.prod(shape[:-1])).reshape(shape[:-1]) // 5
    explainer = kx.Lime(60, lambda x: segments, hide="mean", sampling="random", seed=2)
    found = kx.explain(scorer, images[:1], explainer, targets=0)
    count = segments.max() + 1
    present = np.random.RandomState(2).randint(0, 2, 60 * count).reshape(60, count)
    present[0] = 1
    hidden = np.array(images[0], "float64")
    for s in range(count):
        hidden[segments == s] = images[0][segments == s].mean(axis=0)
    weights, _ = reference.lime(lambda x: net.score(x, 0), images[0], segments, hidden, present)
    np.testing.assert_allclose(found.details["weights"][0], weights, rtol=1e-3, atol=2e-4)
    np.testing.assert_allclose(found.values[0].sum(axis=-1), weights[segments], rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize(
    ("shape", "segmentation"),
    [((12, 20, 24, 3), "watershed"), ((12, 20, 24, 3), "slic"), ((200, 2), "watershed"), ((32, 32, 5), "slic")],
    ids=str,
)
def test_superpixels_of_any_axes_are_connected_and_about_as_many_as_asked(shape, segmentation, random):
    image = ndimage.gaussian_filter(random.random(shape), [1.5] * (len(shape) - 1) + [0])
    image = (image - image.min()) / np.ptp(image)
    segments = kx.Lime(segmentation=segmentation, segments=30)._segments(image, (0, 1))
    assert segments.shape == shape[:-1]
    assert 15 <= segments.max() + 1 <= 48
    if segmentation == "watershed":
        assert all(ndimage.label(segments == s)[1] == 1 for s in range(segments.max() + 1))


def test_segmentations_of_pictures_say_so(random):
    signal, volume = random.random((50, 1)), random.random((8, 8, 8, 1))
    with pytest.raises(kx.InputError, match="slic needs images with two or three axes; use segmentation='watershed'"):
        kx.Lime(segmentation="slic")._segments(signal, (0, 1))
    with pytest.raises(kx.InputError, match="quickshift needs images with two axes"):
        kx.Lime(segmentation="quickshift")._segments(volume, (0, 1))


def flattened(samples, attribution):
    """The same numbers as pictures of one row: what goes by pixels alone must not tell the difference."""
    n, c = len(samples), samples.images.shape[-1]
    flat = dataclasses.replace(
        samples, images=samples.images.reshape(n, 1, -1, c), background=(), roi=samples.roi.reshape(n, 1, -1)
    )
    return flat, dataclasses.replace(attribution, values=attribution.values.reshape(n, 1, -1, c))


@pytest.mark.parametrize("shape", [(6, 12, 13, 2), (150, 2)], ids=str)
def test_metrics_by_pixels_are_those_of_the_same_pixels_in_a_row(shape, random):
    net = reference.Mlp(shape)
    images, values = random.random((2, *shape)), random.normal(size=(2, *shape))
    roi = random.random((2, *shape[:-1])) < 0.2
    samples = kx.Samples(images, [0, 1], roi=roi)
    found = kx.Attribution("mine", values, [0, 1], [0, 1], score=[1.0, 2.0], base_score=[0.0, 0.0])
    row, row_found = flattened(samples, found)
    scorer = kx.Scorer(net.keras())
    in_row = keras.Sequential([keras.Input((1, int(np.prod(shape[:-1])), shape[-1])), *net.keras().layers])
    other = kx.Attribution("other", values[:, ::-1], [0, 1], [0, 1], score=[1.0, 2.0])
    row_other = dataclasses.replace(other, values=other.values.reshape(row_found.values.shape))
    metrics = ["completeness", "agreement", kx.metrics.Faithfulness(baseline=0.25)]
    one = kx.metrics.evaluate(scorer, samples, found, metrics, others=[other])
    two = kx.metrics.evaluate(in_row, row, row_found, metrics, others=[row_other])
    assert one.keys() == two.keys() >= {"agreement", "deletion", "completeness_error"}
    np.testing.assert_allclose(list(one.values()), list(two.values()), rtol=1e-4)
    names = ("pointing_game", "relevance_mass", "relevance_rank", "auprc", "roi_area")
    measured = [kx.metrics.evaluate(scorer, s, f, ["localization"]) for s, f in ((samples, found), (row, row_found))]
    np.testing.assert_allclose(*([m[name] for name in names] for m in measured), rtol=1e-6)


def test_what_looks_at_neighbours_in_a_volume():
    """Otsu with filled holes, border, SSIM and blur along three axes, each against the sums written out."""
    shape = (11, 12, 13)
    values = np.zeros((1, *shape, 1))
    values[0, 3:8, 3:8, 3:8] = 1.0
    values[0, 5, 5, 5] = 0.0  # a hole, closed on all sides
    roi = np.zeros((1, *shape), bool)
    roi[0, 3:8, 3:8, 3:8] = True
    assert kx.metrics.otsu_iou(values, roi)[0] == 1.0
    image = np.zeros((*shape, 1))
    image[2:9, 2:9, 2:9] = 0.8
    image[0, 0, 0] = 1.0  # a marker, apart from the body
    body = kx.metrics.breast(image)
    assert body.sum() == 7**3
    share = kx.metrics.border_share(image[None], body[None])
    np.testing.assert_allclose(share, 1.0 / (1.0 + 0.8 * 7**3))
    random = np.random.default_rng(0)
    one, other = random.random((2, 1, *shape, 1))
    assert kx.metrics.ssim(one, one)[0] == pytest.approx(1)
    assert kx.metrics.ssim(one, other)[0] < 0.5
    step = hidden_image(image.astype("float32"), "blur", np.zeros(shape, int))
    np.testing.assert_allclose(step[..., 0], ndimage.gaussian_filter(image[..., 0], (1.1, 1.2, 1.3)), atol=1e-6)


def test_dear_metrics_on_a_volume(random):
    keras.utils.set_random_seed(0)
    steps = [keras.Input((6, 12, 12, 1)), layers.Conv3D(4, 3, activation="relu"), layers.Conv3D(4, 3), layers.ReLU()]
    model = keras.Sequential([*steps, layers.GlobalAveragePooling3D(), layers.Dense(2, activation="softmax")])
    samples = kx.Samples(random.random((3, 6, 12, 12, 1)), [0, 1, 0])
    for name, passes in (("vanilla", 1), ("guided", None)):
        found = kx.explain(model, samples, name)
        measured = kx.metrics.evaluate(model, samples, found, ["randomization", "sensitivity"], explainer=name)
        assert np.isfinite(measured["randomization_spearman"])
        assert measured["max_sensitivity"] >= 0
        assert passes is None or measured["randomization_passed"] == passes
    lime = kx.Lime(60, segments=12)
    found = kx.explain(model, samples, lime)
    measured = kx.metrics.Stability(repeats=2).measure(found, Context(kx.Scorer(model), samples, lime))
    assert ((measured["vsi"] > 20) & (measured["vsi"] <= 100)).all()


def test_cells_are_the_same_wherever_they_are_made_and_differ_in_their_structure_alone():
    volumes, labels, masks = cells(10, 8, 16, seed=3)
    part = cells(2, 8, 16, seed=3, first=6)
    np.testing.assert_array_equal(part.volumes, volumes[6:8])
    np.testing.assert_array_equal(part.labels, labels[6:8])
    assert labels.tolist() == [0, 1, 2, 3, 4] * 2
    assert 0 <= volumes.min() < volumes.max() <= 1
    for volume, mask in zip(volumes, masks, strict=True):
        assert mask.any()
        assert volume[..., 0][mask].min() > 0.25
        assert volume[..., 0][~mask].max() < 0.5
    many, kinds, _ = cells(100, 12, 24)
    amounts = np.array([many[kinds == k][..., 1:].mean(axis=(1, 2, 3)) for k in range(5)])
    assert np.abs(amounts.mean(axis=1) / amounts.mean(axis=(0, 1)) - 1).max() < 0.15  # DNA and membrane tell nothing
    with pytest.raises(kx.InputError, match="depth must be a whole number, at least 8; got 4"):
        cells(1, depth=4)
    with pytest.raises(kx.InputError, match="side must be a whole number, at least 16; got 8"):
        cells(1, side=8)


def test_projections_are_maxima_along_each_axis():
    volume = np.random.default_rng(0).random((4, 5, 6))
    picture = projections(volume)
    for y in range(5):
        for x in range(6):
            assert picture[y, x] == max(volume[z, y, x] for z in range(4))
    assert picture[5 + 1 + 2, 3] == volume[2, :, 3].max()
    assert picture[1, 6 + 1 + 2] == volume[2, 1, :].max()
    assert np.isnan(picture[5]).all()
    assert np.isnan(picture[6:, 7:]).all()


def volume_round(shape=(4, 8, 8, 2)):
    """One volume of two channels, whose only positive voxel is in the first and only negative one in the second."""
    images = np.zeros((1, *shape))
    images[0, 2, 3, 4] = 1.0
    values = np.zeros((1, *shape))
    values[0, 2, 3, 4, 0], values[0, 1, 6, 2, 1] = 5.0, -2.5
    samples = kx.Samples(
        images, [1], labels=[1], confidence=[0.8], class_names=["a", "b"], channel_names=["DNA", "border"]
    )
    return samples, kx.Attribution("mine", values, [1], [0], score=[2.5], base_score=[0.0])


def at(figure, axes, row, column):
    picture = pixels(figure)
    x, y = figure.axes[axes].transData.transform((column, row))
    return picture[len(picture) - 1 - int(y), int(x)]


def test_a_volume_is_shown_channel_by_channel_for_and_against():
    samples, found = volume_round()
    figure = kx.figures.panel(samples, [found], title="epoch 1", percentile=100)
    said = words(figure)
    for text in ("epoch 1", "DNA", "border", "mine: for", "mine: against", "cut at 100 %", "complete: misses < 0.1 %"):
        assert text in said, text
    places = {axes.get_title(): i for i, axes in enumerate(figure.axes) if axes.get_title()}
    assert list(places) == ["DNA", "mine: for", "mine: against", "border"]
    first = [
        i for i, axes in enumerate(figure.axes) if axes.get_title() in ("DNA", "mine: for", "mine: against", "border")
    ]
    image, positive, negative, _, positive2, negative2 = first
    assert at(figure, image, 3, 4).tolist() == [255, 255, 255]  # XY
    assert at(figure, image, 9 + 2, 4).tolist() == [255, 255, 255]  # XZ, below
    assert at(figure, image, 3, 9 + 2).tolist() == [255, 255, 255]  # YZ, to the right
    assert at(figure, image, 6, 2).tolist() == [0, 0, 0]
    red, _, blue = at(figure, positive, 3, 4)
    assert red >= blue + 50
    red, _, blue = at(figure, negative2, 6, 2)
    assert blue >= red + 50
    for axes, row, column in ((negative, 3, 4), (positive2, 6, 2)):
        assert np.ptp(at(figure, axes, row, column)) == 0  # grey
    assert "XY, XZ, YZ; black 0, white 1" in said
    with pytest.raises(kx.InputError, match="channel_names has 1 entries for 2 channels"):
        dataclasses.replace(samples, channel_names=["DNA"])
    with pytest.raises(kx.InputError, match="panel draws signals, images and volumes with channels last"):
        kx.figures.panel(kx.Samples(np.ones((1, 3)), [0]), [])


def test_signals_and_pictures_of_many_channels_have_figures_too(random):
    signal = kx.Samples(random.random((1, 50, 2)), [0])
    found = kx.Attribution("mine", random.normal(size=(1, 50, 2)), [0], [0], score=[1.0])
    figure = kx.figures.panel(signal, [found])
    assert len([axes for axes in figure.axes if axes.lines]) == 6
    assert f"up to {np.percentile(np.maximum([found.values, -found.values], 0), 99.5):.2g} logit" in words(figure)
    many = kx.Samples(random.random((1, 8, 8, 7)), [0])
    found = kx.Attribution("mine", random.normal(size=(1, 8, 8, 7)), [0], [0], score=[1.0])
    figure = kx.figures.panel(many, [found])
    assert [axes.get_title() for axes in figure.axes].count("mine: for") == 7
    assert "channel 7" in words(figure)


def test_dna_lies_in_the_middle_and_the_membrane_around_it():
    volumes, _, _ = cells(20, 12, 24)
    y, x = np.mgrid[0:24, 0:24]
    distance = np.hypot(y - 11.5, x - 11.5)
    middle, edge = (
        volumes[:, 4:8, distance < 3].mean(axis=(0, 1, 2)),
        volumes[:, 4:8, (distance > 8) & (distance < 11)].mean(axis=(0, 1, 2)),
    )
    assert middle[1] > 4 * edge[1]
    assert edge[2] > 4 * middle[2]


def test_the_region_is_outlined_in_volumes_signals_and_many_channels():
    samples, found = volume_round()
    roi = np.zeros((1, 4, 8, 8), bool)
    roi[0, 1:3, 2:6, 3:7] = True
    yellow = np.array([255, 212, 0])
    figure = kx.figures.panel(dataclasses.replace(samples, roi=roi), [found])
    assert (np.abs(pixels(figure) - yellow).max(axis=-1) < 30).sum() > 50
    assert (np.abs(pixels(kx.figures.panel(samples, [found])) - yellow).max(axis=-1) < 30).sum() == 0
    many = kx.Samples(np.random.default_rng(0).random((1, 8, 8, 5)), [0], roi=roi[:, 1])
    drawn = kx.figures.panel(many, [kx.Attribution("mine", many.images, [0], [0], score=[1.0])])
    assert (np.abs(pixels(drawn) - yellow).max(axis=-1) < 30).sum() > 50
    signal = kx.Samples(np.random.default_rng(0).random((1, 40, 1)), [0], roi=np.arange(40)[None] > 30)
    drawn = kx.figures.panel(signal, [kx.Attribution("mine", signal.images, [0], [0], score=[1.0])])
    assert (np.abs(pixels(drawn) - yellow).max(axis=-1) < 30).sum() > 20


def test_maps_of_several_methods_do_not_overlap(random):
    many = kx.Samples(random.random((1, 8, 8, 5)), [0])
    maps = [kx.Attribution(name, random.random((1, 8, 8, 5)), [0], [0], score=[1.0]) for name in ("one", "two")]
    boxes = [axes.get_position() for axes in kx.figures.panel(many, maps).axes]
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            apart = a.x1 <= b.x0 or b.x1 <= a.x0 or a.y1 <= b.y0 or b.y1 <= a.y0
            assert apart


def test_volumes_are_explained_in_training(tmp_path):
    volumes, labels, masks = cells(20, 8, 16)
    keras.utils.set_random_seed(0)
    steps = [keras.Input(volumes.shape[1:]), layers.Conv3D(8, 3, activation="relu"), layers.GlobalMaxPooling3D()]
    model = keras.Sequential([*steps, layers.Dense(5, activation="softmax")])
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    explain = ExplanationCallback(
        (volumes, labels),
        ["vanilla", "integrated_gradients", kx.Lime(100, segments=15), kx.GradientShap(samples=10)],
        class_names=CLASS_NAMES,
        roi=masks,
        tracker=kx.DirectoryTracker(tmp_path),
        on_error="raise",
        frequency=30,
    )
    model.fit(volumes, labels, epochs=30, callbacks=[explain], verbose=0)
    folder = tmp_path / "explanations" / "epoch_0029"
    samples, attributions, settings = kx.load_round(folder)
    assert len(samples) >= 3
    assert [a.method for a in attributions] == ["vanilla", "integrated_gradients", "lime", "gradient_shap"]
    assert settings["failures"] == {}
    gradients = attributions[1]
    assert (gradients.relative_completeness_error < 0.05).all()
    assert (gradients.measures["auprc"] > 3 * gradients.measures["roi_area"]).all()
    assert len(list(folder.glob("[0-9]-*.png"))) == 5
