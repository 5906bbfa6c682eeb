"""What the pictures show, read back from their pixels and words."""

import dataclasses
import io

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

import keras_explain as kx
from keras_explain.engine import draw_round, panel_names, plain_name
from keras_explain.verdicts import verdicts


def samples_with(n=1, confidence=0.75, **changes):
    image = np.zeros((n, 8, 8, 1))
    image[:, :4] = 1.0
    image = changes.pop("images", image)
    fields = {"labels": [3] * n, "confidence": [confidence] * n, "class_names": ["benign", "malignant"]}
    return kx.Samples(image, [[1]] * n, value_range=(0, 1), **{**fields, **changes})


def attribution_with(values, **changes):
    values = np.asarray(values, "float64")
    n = len(values)
    return kx.Attribution("some_method", values, [1] * n, range(n), score=[2.0] * n, base_score=[0.0] * n, **changes)


def pixels(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].astype(int)


def words(figure):
    texts = [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        texts += [axes.get_title(), axes.get_xlabel(), *(text.get_text() for text in axes.texts)]
        texts += [*(label.get_text() for label in axes.get_xticklabels())]
    return "\n".join(texts)


def colour_at(figure, axes, row, column):
    """The colour that is drawn at one image pixel."""
    picture = pixels(figure)
    x, y = figure.axes[axes].transData.transform((column, row))
    return picture[len(picture) - 1 - int(y), int(x)]


def test_the_original_is_shown_unmarked_and_grey():
    figure = kx.figures.panel(samples_with(), [attribution_with(np.ones((1, 8, 8, 1)))])
    assert colour_at(figure, 0, 1, 4).tolist() == [255, 255, 255]
    assert colour_at(figure, 0, 6, 4).tolist() == [0, 0, 0]


def test_a_grey_image_is_windowed_to_its_own_range_and_says_so():
    pale = np.full((1, 8, 8, 1), 0.9)
    pale[:, :4] = 0.95
    figure = kx.figures.panel(samples_with(images=pale), [])
    assert colour_at(figure, 0, 1, 4).tolist() == [255, 255, 255]
    assert colour_at(figure, 0, 6, 4).tolist() == [0, 0, 0]
    assert "black 0.9, white 0.95" in words(figure)
    coloured = np.repeat(pale, 3, axis=-1) * [1.0, 0.5, 0.5]
    assert "black 0, white 1" in words(kx.figures.panel(samples_with(images=coloured), []))


def test_red_speaks_for_and_blue_against_and_nothing_shows_the_image():
    values = np.zeros((1, 8, 8, 1))
    values[0, 1, 1], values[0, 1, 6] = 2.0, -2.0
    figure = kx.figures.panel(samples_with(), [attribution_with(values)], percentile=100)
    red, blue, nothing = (colour_at(figure, 1, 1, column) for column in (1, 6, 4))
    assert red[0] > red[2] + 60
    assert blue[2] > blue[0] + 60
    assert nothing.tolist() == [255, 255, 255]
    dark = colour_at(figure, 1, 6, 4)
    assert dark.max() - dark.min() == 0  # the anatomy below stays grey


def test_opposite_values_are_equally_strong():
    values = np.zeros((1, 8, 8, 1))
    values[0, 1, 1], values[0, 1, 6], values[0, 1, 4] = 1.0, -1.0, 4.0
    figure = kx.figures.panel(samples_with(), [attribution_with(values)], percentile=100)
    mapped = figure.axes[1].images[1]
    assert mapped.get_clim() == (-4, 4)
    alpha = mapped.get_alpha()
    assert alpha[1, 1] == alpha[1, 6] == 0.25
    assert alpha[1, 4] == 1
    assert "-4" in words(figure)


def test_channels_are_summed_and_the_percentile_cuts():
    values = np.ones((1, 8, 8, 3)) * [1.0, 2.0, -1.5]
    values[0, 0, 0] *= 100
    samples = kx.Samples(np.zeros((1, 8, 8, 3)), [1])
    figure = kx.figures.panel(samples, [attribution_with(values)], percentile=90)
    assert figure.axes[1].images[1].get_clim() == pytest.approx((-1.5, 1.5))
    assert "cut at 90 %" in words(figure)
    assert "logit" in words(figure)


def test_the_caption_says_what_is_known():
    text = words(kx.figures.panel(samples_with(ids=["mdb001"]), [], title="epoch 4"))
    for part in ("epoch 4", "image mdb001", "true class: malignant (3 in the data)", "why malignant?", "p = 0.750"):
        assert part in text
    unknown = words(kx.figures.panel(kx.Samples(np.zeros((1, 8, 8, 1)), [1]), []))
    assert "true class" not in unknown
    assert "p =" not in unknown
    assert "why class 1?" in unknown


@pytest.mark.parametrize(
    ("p", "shown"), [(0.5, "= 0.500"), (0.99, "= 0.990"), (0.99995, "= 0.99995"), (1 - 1e-9, "> 0.999999")]
)
def test_high_probabilities_never_read_one(p, shown):
    text = words(kx.figures.panel(samples_with(confidence=p), []))
    assert f"p {shown}" in text


def test_verdicts_stand_under_the_maps():
    complete = attribution_with(np.full((1, 8, 8, 1), 2.2 / 64))
    fitted = kx.Attribution("lime", np.ones((1, 8, 8, 1)), [1], [0], [2.0], details={"r2": [0.61], "effect": [0.5]})
    plain = kx.Attribution("vanilla", np.ones((1, 8, 8, 1)), [1], [0], [2.0], unit="logit per unit of pixel value")
    unmoved = kx.Attribution("lime", np.ones((1, 8, 8, 1)), [1], [0], [2.0], details={"r2": [np.nan], "effect": [0.0]})
    text = words(kx.figures.panel(samples_with(), [complete, fitted, plain, unmoved]))
    assert "hiding changes nothing" in text
    assert "✗ not complete: misses 10 %" in text
    assert "✓ surrogate fits: R² 0.61" in text
    assert "logit per unit of pixel value" in text


def test_outlines_are_drawn_on_the_maps_and_the_original_is_left_unmarked():
    outline = np.zeros((1, 8, 8), bool)
    outline[0, 2:6, 2:6] = True
    with_it = kx.figures.panel(samples_with(roi=outline), [attribution_with(np.zeros((1, 8, 8, 1)))])
    without = kx.figures.panel(samples_with(), [attribution_with(np.zeros((1, 8, 8, 1)))])
    np.testing.assert_array_equal(colour_at(with_it, 0, 1.5, 4), colour_at(without, 0, 1.5, 4))
    assert (colour_at(with_it, 1, 1.5, 4) - colour_at(without, 1, 1.5, 4)).any()
    yellow = colour_at(with_it, 1, 1.5, 4)
    assert yellow[0] > 150 > yellow[2]


def test_why_not_the_other_classes_is_one_column_a_class():
    samples = kx.Samples(np.zeros((2, 8, 8, 1)), [[0, 1]] * 2, class_names=["benign", "malignant"])
    found = kx.Attribution("ig", np.ones((4, 8, 8, 1)), [0, 1, 0, 1], [0, 0, 1, 1], [1.0] * 4)
    figure = kx.figures.panel(samples, [found])
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["image", "ig\nwhy benign?", "ig\nwhy malignant?"] * 2


def test_the_users_style_changes_nothing():
    plain = pixels(kx.figures.panel(samples_with(), [attribution_with(np.ones((1, 8, 8, 1)))], title="epoch 1"))
    with plt.style.context("dark_background"), matplotlib.rc_context({"text.usetex": True}):
        styled = pixels(kx.figures.panel(samples_with(), [attribution_with(np.ones((1, 8, 8, 1)))], title="epoch 1"))
    captions = slice(0, 70)
    np.testing.assert_array_equal(styled[captions], plain[captions])


def test_nothing_of_matplotlib_is_touched():
    before = dict(matplotlib.rcParams), plt.get_fignums(), matplotlib.get_backend()
    kx.figures.panel(samples_with(), [attribution_with(np.ones((1, 8, 8, 1)))]).savefig(io.BytesIO())
    assert (dict(matplotlib.rcParams), plt.get_fignums(), matplotlib.get_backend()) == before


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: kx.figures.panel(s, [], percentile=0), "percentile must be above 0"),
        (lambda s: kx.figures.panel(kx.Samples(np.zeros((1, 4)), [0]), []), "panel draws signals, images and volumes"),
        (lambda s: kx.figures.panel(s, [attribution_with(np.ones((2, 8, 8, 1)))]), "not of these samples"),
        (lambda s: kx.figures.panel(s, [attribution_with(np.ones((1, 4, 4, 1)))]), "not of these samples"),
    ],
)
def test_what_cannot_be_drawn_is_named(call, message):
    with pytest.raises(kx.InputError, match=message):
        call(samples_with())


def test_every_class_has_a_picture_even_without_an_image(tmp_path):
    samples = samples_with(missing=((5, 0),))
    history = {"epochs": [0], "curves": {"drift": {"vanilla": [0.5]}}}
    about = {"title": "epoch 1", "images_per_class": 2, "history": history}
    written = draw_round(tmp_path, samples, [], about)
    names = ["over_training.png", "3-malignant.png", "3-malignant-2.png", "5-benign.png", "5-benign-2.png"]
    assert sorted(path.name for path in written) == sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_curves_can_be_read_and_keep_their_colours():
    errors = {"gradient_shap": [0.061, 0.093], "mine": [0.05, 0.07]}
    figure = kx.figures.history([1, 6], {"standard_error": errors})
    (axes,) = figure.axes
    figure.canvas.draw()
    low, high = axes.get_ylim()
    labels = [t.get_text() for t, y in zip(axes.get_yticklabels(), axes.get_yticks(), strict=True) if low <= y <= high]
    assert len(labels) >= 1
    assert all(float(label) > 0 for label in labels)
    alone = kx.figures.history([1, 6], {"auprc": {"gradient_shap": [0.1, 0.2]}}).axes[0].lines[0]
    assert alone.get_color() == axes.lines[0].get_color()
    assert axes.lines[1].get_color() not in {line.get_color() for line in axes.lines[:1]}


THRESHOLDS = [
    ({"base_score": [0.0]}, {}, 64 / 1.06, "not complete: misses 6.0 %", False),
    ({"base_score": [0.0]}, {}, 64 / 1.04, "complete: misses 4.0 %", True),
    ({"base_score": [0.0]}, {}, 64 / 1.0501, "not complete: misses 5.0 %", False),
    ({"base_score": [0.0]}, {}, 64 / 1.04999, "complete: misses 5.0 %", True),
    ({"base_score": [0.0]}, {}, 64 / 40, "not complete: misses 3900 %", False),
    ({}, {"auprc": 0.02, "roi_area": 0.004}, 1, "better than chance at ROI: 0.02 vs 0.004", True),
    ({}, {"border_share": 0.5 + 1e-9, "border_area": 0.5}, 1, "below chance on background: 50% vs 50%", True),
    ({"base_score": [0.0]}, {}, 64 * (1 + 1e-6), "complete: misses < 0.1 %", True),
    ({"details": {"r2": [0.49]}}, {}, 1, "surrogate does not fit: R² 0.49", False),
    ({"details": {"r2": [0.5]}}, {}, 1, "surrogate fits: R² 0.50", True),
    ({"details": {"r2": [np.nan]}}, {}, 1, "hiding changes nothing", False),
    ({}, {"randomization_passed": 1.0}, 1, "passes randomization", True),
    ({}, {"randomization_passed": 0.0}, 1, "fails randomization", False),
    ({}, {"auprc": 0.2, "roi_area": 0.1}, 1, "better than chance at ROI: 0.2 vs 0.1", True),
    ({}, {"auprc": 0.19, "roi_area": 0.1}, 1, "about chance at ROI: 0.19 vs 0.1", False),
    ({}, {"auprc": 0.1, "roi_area": 0.1}, 1, "not above chance at ROI: 0.1 vs 0.1", False),
    ({}, {"auprc": 0.8, "roi_area": 0.5}, 1, "better than chance at ROI: 0.8 vs 0.5", True),
    ({}, {"auprc": 0.7, "roi_area": 0.5}, 1, "about chance at ROI: 0.7 vs 0.5", False),
    ({}, {"border_share": 0.5, "border_area": 0.5}, 1, "below chance on background: 50% vs 50%", True),
    ({}, {"border_share": 0.6, "border_area": 0.5}, 1, "above chance on background: 60% vs 50%", False),
]


@pytest.mark.parametrize(("given", "measures", "score", "words", "good"), THRESHOLDS)
def test_verdicts_turn_at_their_thresholds(given, measures, score, words, good):
    rows = {name: np.array([number]) for name, number in measures.items()}
    found = kx.Attribution("any", np.ones((1, 8, 8, 1)), [1], [0], [score], measures=rows, **given)
    assert verdicts(found, 0) == [(words, good)]


def test_what_was_not_measured_has_no_verdict():
    unknown = {name: np.array([np.nan]) for name in ("auprc", "roi_area", "border_share", "randomization_passed")}
    stages = {"randomization_ssim_stages": np.ones((1, 8))}
    assert verdicts(attribution_with(np.ones((1, 8, 8, 1)), measures=unknown | stages), 0)[1:] == []
    whole = {"auprc": np.array([1.0]), "roi_area": np.array([1.0])}  # no map can be elsewhere
    vanilla = kx.Attribution("vanilla", np.ones((1, 8, 8, 1)), [1], [0], [1.0])
    assert verdicts(vanilla, 0) == verdicts(dataclasses.replace(vanilla, measures=whole), 0) == []


def test_verdicts_have_room_and_do_not_meet_what_follows():
    measures = {"auprc": 0.2, "roi_area": 0.1, "border_share": 0.2, "border_area": 0.5, "randomization_passed": 0.0}
    rows = {name: np.full(2, number) for name, number in measures.items()}
    found = attribution_with(np.ones((2, 8, 8, 1)), measures=rows)
    figure = kx.figures.panel(samples_with(2), [found] * 6)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    texts = [text for text in figure.texts if text.get_text()]
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in texts if text.get_text()[0] in "✓✗"]
    assert len(boxes) == 2 * 6 * 4
    assert all(box.y0 >= 0 and box.x1 <= figure.bbox.width for box in boxes)
    pictures = [axes.get_window_extent() for axes in figure.axes] + [
        text.get_window_extent(canvas.get_renderer()) for text in texts if text.get_text()[0] not in "✓✗"
    ]
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in pictures + boxes[:i])


def test_curves_over_training_are_drawn_as_they_are():
    curves = {
        "auprc": {"vanilla": [0.1, None, 0.4], "guided": [0.3, 0.2, 0.1]},
        "roi_area": {"": [0.05, 0.05, 0.06]},
        "randomization_passed": {"vanilla": [None, None, 1.0]},
    }
    figure = kx.figures.history([1, 6, 11], curves, title="epoch 11")
    (axes,) = figure.axes  # what was measured once only is left out
    assert axes.get_title() == "auprc"
    lines = [line.get_ydata().tolist() for line in axes.lines]
    np.testing.assert_equal(lines, [[0.1, np.nan, 0.4], [0.3, 0.2, 0.1], [0.05, 0.05, 0.06]])
    assert [line.get_xdata().tolist() for line in axes.lines] == [[1, 6, 11]] * 3
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["vanilla", "guided", "chance"]
    once = kx.figures.history([1], {"drift": {"vanilla": [0.5]}})
    assert [axes.get_title() for axes in once.axes] == ["drift"]
    with pytest.raises(kx.InputError, match=r"curves\['auprc'\]\['vanilla'\] has 3 numbers, epochs 2"):
        kx.figures.history([1, 2], curves)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("malignant mass", "malignant mass"),
        ("../../etc/passwd", "_etc_passwd"),
        ("<img src=x onerror=alert(1)>", "_img src_x onerror_alert_1_"),
        ("größe: 5%", "gr_e_ 5_"),
        ("", "_"),
        ("a" * 300, "a" * 80),
        ("  line\nbreak  ", "line_break"),
    ],
)
def test_names_become_harmless_file_names(text, plain):
    assert plain_name(text) == plain


def test_panel_names_are_stable_and_unique():
    samples = kx.Samples(
        np.zeros((4, 2, 2, 1)), [0, 0, 0, 1], labels=[1, 1, 2, 3], class_names=["x/y", "x:y"], confidence=[1, 1, 1, 1]
    )
    assert panel_names(samples) == ["1-x_y", "1-x_y-2", "2-x_y", "3-x_y"]


def test_long_names_are_not_cut_off():
    """A panel of one map is two columns wide, and a caption has the name of its class twice."""
    name = "malignant calcification of the outer upper quadrant"
    samples = kx.Samples(np.ones((1, 8, 8, 1)), [0], labels=[0], confidence=[0.5], class_names=[name, "other"])
    found = kx.Attribution("vanilla", np.ones((1, 8, 8, 1)), [0], [0], score=[1.0])
    figure = kx.figures.panel(samples, [found], title="epoch 3")
    figure.canvas.draw()
    ends = [words.get_window_extent().x1 for words in figure.texts if name in words.get_text()]
    assert ends
    assert max(ends) <= figure.bbox.width


def test_the_colours_are_explained_where_there_are_some():
    images = np.random.default_rng(0).random((1, 8, 8, 1))
    found = kx.Attribution("vanilla", images - 0.5, [0], [0], score=[1.0])
    finding = np.arange(64).reshape(1, 8, 8) > 40

    def told(attributions, roi=None):
        samples = kx.Samples(images, [0]) if roi is None else kx.Samples(images, [0], roi=roi)
        figure = kx.figures.panel(samples, attributions)
        return "\n".join(words.get_text() for axes in figure.axes for words in axes.texts)

    colours, border = "red speaks for the class, blue against it", "yellow is the border of the finding"
    for attributions, roi, said in (([], None, ()), ([found], None, (colours,)), ([found], finding, (colours, border))):
        assert [words for words in (colours, border) if words in told(attributions, roi)] == list(said)
