"""The page: opened from disk in a real browser, its pixels and numbers read back, and fed with hostile names."""

import base64
import io
import json
import re
import time

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image

import keras_explain as kx
from keras_explain.comparison import compare
from keras_explain.engine import History, Round, write_round
from keras_explain.report import Report, rounds_in, write_report
from keras_explain.report.encoding import encoded_labels, encoded_map, encoded_picture, tiled
from keras_explain.verdicts import Verdict, advice
from keras_explain.words import METHODS, about, titles

HOSTILE = "<img src=x onerror=document.title='broken'>"
FOR, AGAINST = np.array([255, 90, 70]), np.array([91, 157, 255])
RAMP = np.linspace(-1, 1, 16 * 16).reshape(1, 16, 16, 1)


def samples_of(n=1, targets=(1,), names=("normal", "mass", "calcification"), side=16, **options):
    """Images of one grey each, with a square of another as finding."""
    images = np.zeros((n, side, side, 1)) + np.arange(1, n + 1)[:, None, None, None] / 10
    images[:, 0, 0] = 0
    images[:, -1, -1] = 1
    roi = np.zeros((n, side, side), bool)
    roi[:, 4:8, 4:8] = True
    known = {"labels": [1] * n, "confidence": [0.9] * n, "ids": [f"case {i}" for i in range(n)], "accuracy": 0.625}
    return kx.Samples(images, [list(targets)] * n, class_names=names, **{"roi": roi, **known, **options})


def ramp(method="integrated_gradients", scale=1.0, samples=1, measures=None, **options):
    values = np.concatenate([scale * RAMP] * samples)
    known = {"score": [5.0] * samples, "base_score": [1.0] * samples, "measures": measures or {}}
    targets = options.pop("targets", [1] * samples)
    return kx.Attribution(method, values, targets, range(samples), **{**known, **options})


def training(
    folder, epochs=(0, 4), names=("normal", "mass", "calcification"), failures=(), stopped=(), method="vanilla"
):
    """Rounds whose map grows with the epoch."""
    history = History()
    for epoch in epochs:
        measured = {"auprc": np.array([0.1 + epoch / 10]), "roi_area": np.array([1 / 16])}
        first, second = ramp(scale=1.0 + epoch, measures=measured), ramp(method, scale=2.0)
        numbers = {"val_explain_integrated_gradients_auprc": 0.1 + epoch / 10}
        found = Round(samples_of(names=names), ["integrated_gradients", method], [first, second], numbers)
        found.failures, found.stopped, found.model = dict(failures), list(stopped), {"name": "small", "weights": "ab12"}
        history.add(epoch, found)
        write_round(
            folder / f"epoch_{epoch:04d}", found, history, f"epoch {epoch + 1}", {"epoch": epoch, "note": names[0]}
        )
    return folder


def opened(browser, file, width=1400, height=1000):
    """A page of a file, with what it said to its console and asked of the network."""
    page = browser.new_page(viewport={"width": width, "height": height})
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    page.wait_for_selector("body[data-ready=yes]")
    settled(page)
    return page, said, asked


def settled(page):
    """Until every canvas shows what it should."""
    end = time.monotonic() + 20
    while not page.evaluate("late.size === 0 && !due && !waiting"):
        assert time.monotonic() < end, page.evaluate("[late.size, due, waiting]")
        page.wait_for_timeout(20)
    page.wait_for_timeout(100)


def drawn(page, selector, n=0):
    """The pixels (h, w, 3) of a canvas, enlarged as the page does."""
    data = page.locator(selector).nth(n).evaluate("canvas => canvas.toDataURL()")
    with Image.open(io.BytesIO(base64.b64decode(data.split(",")[1]))) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def at_own_size(pixels, side=16):
    """The centre of every pixel of the image in an enlarged canvas."""
    zoom = len(pixels) // side
    return pixels[zoom // 2 :: zoom, zoom // 2 :: zoom]


def decoded(source):
    with Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


# --- numbers as pictures -----------------------------------------------------------------------------------------


def test_a_map_comes_back_from_its_picture(random):
    values = random.standard_t(2, (3, 20, 30))
    values[0, 0, :10] = 0
    stored = encoded_map(values, 10**6)
    levels = (decoded(stored["src"])[..., 0] - 128) / 127
    back = np.sign(levels) * levels**2 * stored["max"]
    expected = tiled(values)
    assert stored["exact"]
    assert stored["max"] == np.abs(values).max()
    root = np.sqrt(np.abs(expected) / stored["max"])  # half a level of the root, either way
    bound = ((root + 0.5 / 127) ** 2 - root**2) * stored["max"]
    slices = tiled(np.ones_like(values)) == 1  # the fourth place is empty
    assert (np.abs(back - expected) <= bound + 1e-12)[slices].all()
    assert (back[0, :10] == 0).all()


def test_less_room_takes_losses_and_then_pixels(random):
    values = random.normal(size=(1, 128, 128)) + 10 * np.linspace(-1, 1, 128)
    sizes = []
    for room in (10**6, 9000, 2000):
        stored = encoded_map(values, room)
        assert len(stored["src"]) <= room
        sizes.append((stored["exact"], stored["shape"]))
    assert sizes == [(True, (1, 128, 128)), (False, (1, 128, 128)), (False, (1, 64, 64))]
    halves = encoded_map(np.repeat(np.repeat(random.normal(size=(1, 33, 32)), 2, 1), 2, 2)[:, :65], 10)
    assert halves["shape"] == (1, 17, 16)  # odd sides too; the least that is stored
    assert encoded_map(np.zeros((1, 8, 8)), 10**6)["max"] == 0


def test_labels_and_pictures_come_back():
    labels = np.arange(600).reshape(1, 20, 30)
    red, green, _ = np.moveaxis(decoded(encoded_labels(labels)), -1, 0)
    np.testing.assert_array_equal(256 * red + green, labels[0])
    colours = np.random.default_rng(0).integers(0, 256, (1, 9, 7, 3), "uint8")
    np.testing.assert_array_equal(decoded(encoded_picture(colours)), colours[0])


# --- what is drawn -----------------------------------------------------------------------------------------------


def blended(values, limit, grey, opacity):
    strength = np.clip(values / limit, -1, 1)[..., None]
    colour = np.where(strength < 0, AGAINST, FOR)
    return grey[..., None] + opacity * np.abs(strength) * (colour - grey[..., None])


def test_every_pixel_is_the_image_and_the_map_over_it(browser, tmp_path):
    page, said, asked = opened(browser, write_report(training(tmp_path), tmp_path / "report.html", "Breasts"))
    page.uncheck("#roi")
    settled(page)
    image = samples_of().images[0, ..., 0]
    grey = np.rint(255 * image)
    limit = np.percentile(np.abs(5 * RAMP), 99.5)
    first, map_ = ".sample th canvas", ".sample td canvas"
    np.testing.assert_array_equal(at_own_size(drawn(page, first))[..., 0], grey)
    assert np.abs(at_own_size(drawn(page, map_)) - blended(5 * RAMP[0, ..., 0], limit, grey, 0.6)).max() <= 2
    page.locator("#opacity").fill("0.25")
    settled(page)
    assert np.abs(at_own_size(drawn(page, map_)) - blended(5 * RAMP[0, ..., 0], limit, grey, 0.25)).max() <= 2
    np.testing.assert_array_equal(at_own_size(drawn(page, first))[..., 0], grey)  # the original stays unmarked
    for sign, part in (("1", np.maximum(RAMP, 0)), ("-1", np.minimum(RAMP, 0))):
        page.select_option("#sign", sign)
        settled(page)
        assert np.abs(at_own_size(drawn(page, map_)) - blended(5 * part[0, ..., 0], limit, grey, 0.25)).max() <= 2
    page.select_option("#sign", "0")
    page.select_option("#mode", "alone")
    settled(page)
    assert np.abs(at_own_size(drawn(page, map_)) - blended(5 * RAMP[0, ..., 0], limit, 0 * grey, 1)).max() <= 2
    page.select_option("#mode", "none")
    settled(page)
    np.testing.assert_array_equal(at_own_size(drawn(page, map_))[..., 0], grey)
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


def test_the_finding_is_outlined_on_maps_alone(browser, tmp_path):
    page, _, _ = opened(browser, write_report(training(tmp_path), tmp_path / "report.html"))
    page.select_option("#mode", "none")
    settled(page)
    with_outline = drawn(page, ".sample td canvas")
    yellow = (np.abs(with_outline - [255, 212, 0]) < 40).all(axis=-1)
    zoom = len(with_outline) // 16
    rows, columns = np.flatnonzero(yellow.any(axis=1)), np.flatnonzero(yellow.any(axis=0))
    for found in (rows, columns):
        assert abs(found[0] - 4 * zoom) <= 2
        assert abs(found[-1] - 8 * zoom) <= 2
    assert not (np.abs(drawn(page, ".sample th canvas") - [255, 212, 0]) < 40).all(axis=-1).any()
    page.keyboard.press("r")
    settled(page)
    assert not (np.abs(drawn(page, ".sample td canvas") - [255, 212, 0]) < 40).all(axis=-1).any()


def test_contours_enclose_what_is_strongest(browser, tmp_path):
    """A disc of positive and a smaller one of negative values: lines go round them, and the pixels are left alone."""
    samples = samples_of(side=64)
    y, x = np.mgrid[:64, :64]
    values = 1.0 * ((y - 20) ** 2 + (x - 20) ** 2 < 36) - 1.0 * ((y - 48) ** 2 + (x - 44) ** 2 < 16)
    found = kx.Attribution("mine", values[None, ..., None], [1], [0], score=[0.0])
    kx.save_round(tmp_path / "round", samples, [found])
    page, _, _ = opened(browser, write_report(tmp_path / "round", tmp_path / "report.html"))
    page.uncheck("#roi")
    page.keyboard.press("c")
    settled(page)
    pixels = drawn(page, ".sample td canvas")
    zoom = len(pixels) // 64
    for colour, row, column, radius in ((FOR, 20, 20, 6), (AGAINST, 48, 44, 4)):
        ys, xs = np.nonzero((np.abs(pixels - colour) < 40).all(axis=-1))
        assert abs((ys.min() + ys.max()) / 2 / zoom - row) < 1.5
        assert abs((xs.min() + xs.max()) / 2 / zoom - column) < 1.5
        assert radius - 2 < (ys.max() - ys.min()) / 2 / zoom < radius + 2
        np.testing.assert_array_equal(pixels[row * zoom + 1, column * zoom + 1], [26, 26, 26])  # 0.1 of 255: the image
    page.keyboard.press("s")
    settled(page)
    pixels = drawn(page, ".sample td canvas")
    assert (np.abs(pixels - FOR) < 40).all(axis=-1).any()
    assert not (np.abs(pixels - AGAINST) < 40).all(axis=-1).any()


def test_a_single_spot_has_a_contour(browser, tmp_path):
    values = np.zeros((1, 64, 64, 1))
    values[0, 30:34, 30:34] = 1.0
    kx.save_round(tmp_path / "round", samples_of(side=64), [kx.Attribution("mine", values, [1], [0], score=[0.0])])
    page, _, _ = opened(browser, write_report(tmp_path / "round", tmp_path / "report.html"))
    page.select_option("#mode", "contour")
    settled(page)
    pixels = drawn(page, ".sample td canvas")
    ys, xs = np.nonzero((np.abs(pixels - FOR) < 40).all(axis=-1))
    for found in (ys, xs):  # round the four pixels from 30 to 34
        assert (found.min() + found.max()) / 2 * 64 / len(pixels) == pytest.approx(32, abs=1)
        assert 2 < (found.max() - found.min()) * 64 / len(pixels) < 8


def test_epochs_scroll_play_and_share_a_scale(browser, tmp_path):
    page, said, _ = opened(browser, write_report(training(tmp_path, (0, 4, 9)), tmp_path / "report.html"))
    heading, scale = page.locator("#grid h2"), page.locator(".sample td .scale").first
    assert heading.inner_text() == "epoch 10"
    assert page.locator("#shown").inner_text() == "epoch 10"
    last = scale.inner_text()
    assert last.split() == ["−10", "0", "10"]
    page.keyboard.press("ArrowLeft")
    assert heading.inner_text() == "epoch 5"
    assert scale.inner_text() != last
    page.keyboard.press("x")
    assert page.locator("#shared").is_checked()
    assert scale.inner_text() == last  # that of the largest
    own = np.percentile(np.abs(5 * RAMP), 99.5)
    settled(page)
    page.uncheck("#roi")
    settled(page)
    grey = np.rint(255 * samples_of().images[0, ..., 0])
    assert (
        np.abs(at_own_size(drawn(page, ".sample td canvas")) - blended(5 * RAMP[0, ..., 0], 2 * own, grey, 0.6)).max()
        <= 2
    )
    page.locator("#round").fill("0")
    assert heading.inner_text() == "epoch 1"
    assert page.locator("#round").get_attribute("aria-valuetext") == "epoch 1"
    page.locator("h1").click()
    page.keyboard.press("Space")
    page.wait_for_selector("#grid h2:text-is('epoch 10')")
    page.keyboard.press("Space")
    stopped = heading.inner_text()
    page.wait_for_timeout(1200)
    assert heading.inner_text() == stopped
    page.locator("details", has_text="Keys").locator("summary").click()
    page.uncheck("#keys")
    page.keyboard.press("ArrowLeft")
    assert heading.inner_text() == stopped
    assert said == []


def test_two_epochs_beside_each_other(browser, tmp_path):
    page, _, _ = opened(browser, write_report(training(tmp_path), tmp_path / "report.html"))
    page.uncheck("#roi")
    page.select_option("#beside", "0")
    settled(page)
    grey = np.rint(255 * samples_of().images[0, ..., 0])
    limits = [np.percentile(np.abs(scale * RAMP), 99.5) for scale in (5, 1)]
    cell = ".sample td:nth-of-type(1) canvas"
    pixels = [at_own_size(drawn(page, cell, n)) for n in range(3)]
    for shown, values, limit in (
        (pixels[0], 5 * RAMP, limits[0]),
        (pixels[1], RAMP, limits[1]),
        (pixels[2], 4 * RAMP, limits[0]),
    ):
        assert np.abs(shown - blended(values[0, ..., 0], limit, grey, 0.6)).max() <= 4
    assert "first minus second" in page.locator(".sample td").first.inner_text()
    assert page.locator(".sample td").first.locator(".marks").count() == 2  # each side has its own
    page.locator("#round").fill("0")
    page.select_option("#beside", "1")
    settled(page)
    difference = at_own_size(drawn(page, cell, 2))  # the scale is that of the larger, whichever it is
    assert np.abs(difference - blended(-4 * RAMP[0, ..., 0], limits[0], grey, 0.6)).max() <= 4
    assert "first minus second, full at 5" in page.locator(".sample td").first.inner_text()
    page.select_option("#beside", "")
    assert page.locator(".sample td").first.locator("canvas").count() == 1
    page.select_option("#sign", "0")
    page.locator("h1").click()
    for sign in ("1", "-1", "0"):
        page.keyboard.press("s")
        assert page.locator("#sign").input_value() == sign
    page.locator("#round").focus()
    page.keyboard.press("ArrowRight")  # the slider's own
    assert page.locator("#grid h2").inner_text() == "epoch 5"
    page.locator("#mode").focus()
    page.keyboard.press("o")  # finds an entry of the list
    assert page.locator("#mode").input_value() != "none"


def test_errors_over_decades_have_a_logarithmic_axis(browser, tmp_path):
    history = {"epochs": [0, 1, 2], "curves": {"completeness_error": {"vanilla": [1.0, 0.01, 0.0001]}}}
    kx.save_round(tmp_path / "round", samples_of(), [], {"history": history, "epoch": 0})
    page, _, _ = opened(browser, write_report(tmp_path / "round", tmp_path / "report.html"))
    assert page.locator("#plots figcaption").inner_text() == "completeness error (logarithmic)"
    heights = page.locator("#plots circle").evaluate_all("all => all.map(one => Number(one.getAttribute('cy')))")
    assert heights[1] - heights[0] == pytest.approx(heights[2] - heights[1])


def test_a_map_without_a_counterpart_stays(browser, tmp_path):
    for epoch, ids in ((0, "a"), (1, "b")):
        about = {"title": f"epoch {epoch + 1}", "panels": [ids]}
        images = samples_of(ids=[ids])
        kx.save_round(tmp_path / f"epoch_{epoch:04d}", images, [ramp()], about)
    page, _, _ = opened(browser, write_report(tmp_path, tmp_path / "report.html"))
    page.select_option("#beside", "0")
    settled(page)
    cell = page.locator(".sample td").first
    assert cell.locator("canvas").count() == 1
    assert "not in epoch 1" in cell.inner_text()
    assert "not complete" in cell.inner_text()
    other = samples_of(2)[[1]]
    kx.save_round(tmp_path / "epoch_0000", other, [ramp()], {"title": "epoch 1", "panels": ["b"]})
    page, _, _ = opened(browser, write_report(tmp_path, tmp_path / "report.html"))
    page.select_option("#beside", "0")
    cell = page.locator(".sample td").first
    assert "epoch 1, another image" in cell.inner_text()
    assert cell.locator("canvas").count() == 2  # no difference of two images


def test_guesses_are_called_guesses(browser, tmp_path):
    for accuracy, said in ((0.35, True), (0.625, False)):
        kx.save_round(tmp_path / "round", samples_of(accuracy=accuracy), [ramp()])
        page, _, _ = opened(browser, write_report(tmp_path / "round", tmp_path / "report.html"))
        text = page.locator("#grid").inner_text()
        assert f"Accuracy on the images looked at: {accuracy:.3f} (guessing gives about 0.33)" in text
        assert ("its maps explain guesses" in text) == said


def test_colours_are_grey_under_a_map(browser, tmp_path):
    images = np.zeros((1, 16, 16, 3))
    images[..., 0], images[..., 1] = 0.9, 0.3
    images[0, 0, 0] = 1
    samples = kx.Samples(images, [0])
    found = kx.Attribution("mine", np.zeros((1, 16, 16, 3)), [0], [0], score=[0.0])
    kx.save_round(tmp_path / "round", samples, [found])
    page, _, _ = opened(browser, write_report(tmp_path / "round", tmp_path / "report.html"))
    first = at_own_size(drawn(page, ".sample th canvas"))[5, 5]
    np.testing.assert_allclose(first, np.rint([0.9 * 255, 0.3 * 255, 0]), atol=1)
    np.testing.assert_allclose(at_own_size(drawn(page, ".sample td canvas"))[5, 5], 102, atol=1)
    assert not page.locator("#roi").is_visible()  # nothing is known of a finding
    assert not page.locator("#shared").is_visible()  # there is one round


def test_curves_with_their_cursor_and_numbers(browser, tmp_path):
    page, _, _ = opened(browser, write_report(training(tmp_path, (0, 4, 9)), tmp_path / "report.html"))
    assert page.locator("#plots figcaption").first.inner_text() == "auprc, dashed: chance"
    places = {}
    for epoch, presses in ((10, 0), (5, 1), (1, 1)):
        for _ in range(presses):
            page.keyboard.press("ArrowLeft")
        places[epoch] = float(page.locator(".cursor").first.get_attribute("x1"))
    circles = page.locator("#plots svg[role=img]").first.locator("circle")
    assert sorted(places.values()) == [float(circles.nth(n).get_attribute("cx")) for n in range(3)]
    heights = [float(circles.nth(n).get_attribute("cy")) for n in range(3)]
    assert (heights[0] - heights[1]) / (heights[0] - heights[2]) == pytest.approx(4 / 9)
    page.locator("#curves summary").click()
    chance = page.locator("#plots svg[role=img]").first.locator("path[stroke-dasharray='3 3']").get_attribute("d")
    assert len({float(point.split()[1]) for point in re.split("[ML]", chance)[1:]}) == 1  # 1/16 in every round
    row = page.locator("#plots-table tbody tr").first.inner_text().split("\t")
    assert row == ["auprc", "Integrated Gradients", "0.1", "0.5", "1"]


def test_one_map_opens_with_its_parts_and_every_class(browser, tmp_path):
    values = np.concatenate([-2 * RAMP, RAMP, 3 * RAMP])
    found = kx.Attribution(
        "integrated_gradients", values, [0, 1, 2], [0, 0, 0], score=[-2.0, 5.0, 0.25], base_score=[1.0, 5.0, 0.0]
    )
    kx.save_round(tmp_path / "round", samples_of(), [found], {"title": "by hand"})
    page, said, _ = opened(browser, write_report(tmp_path / "round", tmp_path / "report.html"))
    assert page.locator(".sample td canvas").count() == 1  # that of its own class
    page.locator(".sample .view").focus()
    page.keyboard.press("Enter")
    detail = page.locator("#detail")
    settled(page)
    assert detail.locator("#detail-title").inner_text() == "Integrated Gradients: image case 0, by hand"
    page.keyboard.press("r")
    settled(page)
    grey = np.rint(255 * samples_of().images[0, ..., 0])
    limit = np.percentile(np.abs(RAMP), 99.5)
    for n, part in ((1, RAMP), (2, np.maximum(RAMP, 0)), (3, np.minimum(RAMP, 0))):
        shown = at_own_size(drawn(page, "#detail canvas", n))
        assert np.abs(shown - blended(part[0, ..., 0], limit, grey, 0.6)).max() <= 2
    texts = detail.locator("figcaption").all_inner_texts()
    assert [text.split("\n")[0] for text in texts[4:]] == ["why mass?", "why not normal?", "why not calcification?"]
    assert "score −2, Δ −3, Σ +0" in texts[5].replace("Σ −0", "Σ +0")
    common = 3 * limit
    for n, scale in ((4, 1), (5, -2), (6, 3)):
        shown = at_own_size(drawn(page, "#detail canvas", n))
        assert np.abs(shown - blended(scale * RAMP[0, ..., 0], common, grey, 0.6)).max() <= 2
    small = drawn(page, "#detail canvas").shape[0]
    page.select_option("#zoom", "1")
    settled(page)
    assert drawn(page, "#detail canvas").shape[0] == 16 < small
    page.keyboard.press("Escape")
    assert not detail.is_visible()
    assert said == []


def test_superpixels_with_their_weights(browser, tmp_path):
    segments = np.repeat(np.repeat(np.arange(4).reshape(1, 2, 2), 8, 1), 8, 2)
    weights = np.array([[0.5, -2.0, 0.1, 1.0]])
    values = weights[0][segments[0]][None, ..., None]
    details = {
        "segments": segments,
        "weights": weights,
        "weight_error": abs(weights) / 10,
        "r2": [0.75],
        "effect": [1.5],
    }
    found = kx.Attribution("lime", values, [1], [0], score=[0.0], details=details, unit="logit per superpixel")
    kx.save_round(tmp_path / "round", samples_of(), [found])
    page, _, _ = opened(browser, write_report(tmp_path / "round", tmp_path / "report.html"))
    page.locator(".sample .view").click()
    assert "R² of the surrogate 0.75, effect of hiding 1.5 logit" in page.locator("#detail-body").inner_text()
    rows = page.locator("#segments tbody tr")
    assert rows.first.inner_text().split() == ["superpixel", "2", "−2", "±", "0.2"]
    assert rows.all_inner_texts()[1].split()[:3] == ["superpixel", "4", "+1"]
    page.select_option("#mode", "none")
    page.keyboard.press("r")
    rows.first.locator("button").click()
    settled(page)
    pixels = drawn(page, "#detail .pictures:has(#segments) canvas")
    white = (pixels > 250).all(axis=-1)
    zoom = len(pixels) // 16
    ys, xs = np.nonzero(white[: 15 * zoom, : 15 * zoom])  # the lower right pixel of the image is white
    assert (ys.max() - 8 * zoom, xs.min() - 8 * zoom) == (pytest.approx(0, abs=2), pytest.approx(0, abs=2))


def test_each_slice_of_a_volume_is_seen_alone(browser, tmp_path):
    """Slice k has the grey value 85 k, and the map lies in slice 2 of the second channel."""
    images = np.zeros((1, 4, 12, 12, 2))
    images[0, ..., 0] = np.linspace(0, 1, 4)[:, None, None]
    images[0, ..., 1] = 1 - images[0, ..., 0]
    values = np.zeros_like(images)
    values[0, 2, :6, :, 1] = 1.0
    values[0, 3, :, :, 0] = 0.1
    samples = kx.Samples(images, [0], channel_names=["DNA", HOSTILE])
    kx.save_round(tmp_path / "round", samples, [kx.Attribution("mine", values, [0], [0], score=[0.0])])
    page, said, _ = opened(browser, write_report(tmp_path / "round", tmp_path / "report.html"))
    slider = page.locator(".sample .slice")
    assert page.locator(".sample output").inner_text() == "3 of 4"
    for k in range(4):
        slider.fill(str(k))
        settled(page)
        assert page.locator(".sample output").inner_text() == f"{k + 1} of 4"
        assert (at_own_size(drawn(page, ".sample th canvas"), 12) == 85 * k).all()
    page.select_option(".sample .channel", "1")
    slider.fill("2")
    settled(page)
    pixels = at_own_size(drawn(page, ".sample td canvas"), 12)
    np.testing.assert_array_equal(pixels[6:], np.full((6, 12, 3), 85))
    assert np.abs(pixels[:6] - (85 + 0.6 * (FOR - 85))).max() <= 1
    slider.fill("1")
    settled(page)
    assert (at_own_size(drawn(page, ".sample td canvas"), 12) == 170).all()
    assert page.locator(".channel option").all_inner_texts() == ["DNA", HOSTILE]
    assert page.locator(".sample td .scale").inner_text().split() == ["0", "1"]  # one scale for all channels
    page.locator(".sample .view").click()
    page.locator("#detail .slice").fill("0")
    page.keyboard.press("Escape")
    assert page.locator(".sample output").inner_text() == "1 of 4"  # the same slice in both places
    assert slider.input_value() == "0"
    assert said == []


def test_signals_are_drawn_as_lines(browser, tmp_path, random):
    samples = kx.Samples(random.random((2, 50, 2)), [0, 1])
    found = kx.Attribution("mine", random.random((2, 50, 2)), [0, 1], [0, 1], score=[0.0, 1.0])
    kx.save_round(tmp_path / "round", samples, [found])
    page, said, _ = opened(browser, write_report(tmp_path / "round", tmp_path / "report.html"))
    widths = page.locator("img.static").evaluate_all("images => images.map(image => image.naturalWidth)")
    assert len(widths) == 2
    assert min(widths) > 300
    assert said == []


# --- what is said ------------------------------------------------------------------------------------------------


def test_failed_checks_are_said_in_plain_words(browser, tmp_path):
    folder = training(tmp_path, failures={"lime": "InputError: nothing to hide"}.items(), stopped=["rise"])
    page, _, _ = opened(browser, write_report(folder, tmp_path / "report.html"))
    said = page.locator(".warnings").inner_text()
    checks = page.locator(".sample .marks li")
    against = page.locator(".sample .marks .bad")
    assert f"{against.count()} of {checks.count()} checks speak against a map" in said
    assert "The values do not add up to the change of the score" in said
    assert "lime failed: InputError: nothing to hide" in said
    assert "Left out to keep the time limit: rise" in said
    assert "✗ not complete: misses 100 %" in page.locator(".sample td").first.inner_text()
    methods = page.locator("#methods").inner_text()
    assert METHODS["vanilla"].says in methods
    assert METHODS["integrated_gradients"].failing in methods


def test_every_failing_has_its_sentence():
    words = {
        "empty: nothing": "does not react",
        "hardly differs from noise": "sampling noise",
        "not complete: misses 9 %": "do not add up",
        "surrogate does not fit": "linear model",
        "hiding changes nothing": "stays the same whatever is hidden",
        "fails randomization": "weights are destroyed",
        "about chance at ROI": "hardly more",
        "not above chance at ROI": "no more than",
        "above chance on background": "look for markers",
    }
    for verdict, sentence in words.items():
        assert sentence in advice(Verdict(verdict, False)), verdict


def test_what_is_missing_or_unknown_is_said(browser, tmp_path):
    samples = samples_of(labels=[-1], missing=[(2, 2)], roi=np.ones((1, 16, 16), bool))
    kx.save_round(tmp_path / "round", samples, [ramp(targets=[2])], {"numbers": {"a": None}})
    page, said, _ = opened(browser, write_report(tmp_path / "round", tmp_path / "report.html"))
    assert "calcification: no image of this class is predicted correctly." in page.locator(".warnings").inner_text()
    head = page.locator(".sample th").inner_text()
    assert "true class" not in head
    assert "probability of mass = 0.900" in head
    assert "why calcification?" in page.locator(".sample td").inner_text()  # not the class of the image
    assert not page.locator("#roi").is_visible()  # a region that is everything has no outline
    assert said == []
    kx.save_round(tmp_path / "bare", samples_of(confidence=[np.nan]), [])
    page, said, _ = opened(browser, write_report(tmp_path / "bare", tmp_path / "report.html"))
    assert "explained why mass?" in page.locator(".sample th").inner_text()
    assert page.locator(".warnings").inner_text().strip() == "No check was made of these maps."
    file = tmp_path / "empty.html"
    file.write_text(Report("empty").page(), "utf-8")
    page, said, _ = opened(browser, file)
    assert "There is no round yet." in page.locator("#grid").inner_text()
    assert said == []


def test_a_page_of_little_room_says_so_and_shows_means(browser, tmp_path):
    pages = {}
    for rounds in (1, 10**6):
        report = Report("small", rounds)
        noise = kx.Attribution("mine", np.random.default_rng(0).normal(size=(1, 64, 64, 1)), [1], [0], score=[0.0])
        report.add("round", samples_of(side=64), [noise], {})
        pages[rounds] = tmp_path / f"{rounds}.html"
        pages[rounds].write_text(report.page(), "utf-8")
    page, _, _ = opened(browser, pages[1])
    assert page.locator("#losses").get_attribute("hidden") is not None
    page, _, _ = opened(browser, pages[10**6])
    assert page.locator("#losses").get_attribute("hidden") is None
    page.select_option("#mode", "alone")
    settled(page)
    shown = at_own_size(drawn(page, ".sample td canvas"), 64).astype(float)
    mean = noise.values[0, ..., 0].reshape(32, 2, 32, 2).mean(axis=(1, 3))
    signed = (shown[::2, ::2, 0] - shown[::2, ::2, 2])[:32, :32]  # red for, blue against
    assert np.corrcoef(signed.ravel(), mean.ravel())[0, 1] > 0.8


def test_one_huge_value_leaves_the_others_visible(browser, tmp_path):
    values = np.ones((1, 32, 32, 1))
    values[0, 16:] = 0.5
    values[0, 0, 0] = 1e6
    kx.save_round(tmp_path / "round", samples_of(side=32), [kx.Attribution("mine", values, [1], [0], score=[0.0])])
    page, _, _ = opened(browser, write_report(tmp_path / "round", tmp_path / "report.html"))
    page.select_option("#mode", "alone")
    page.uncheck("#roi")
    settled(page)
    shown = at_own_size(drawn(page, ".sample td canvas"), 32)
    np.testing.assert_allclose(shown[8, 20], FOR, atol=3)
    np.testing.assert_allclose(shown[24, 20], FOR / 2, atol=12)


def test_where_it_comes_from_is_on_the_page(browser, tmp_path):
    page, _, _ = opened(browser, write_report(training(tmp_path), tmp_path / "report.html"))
    facts = page.locator(".sample th").inner_text()
    assert all(words in facts for words in ("image case 0", "true class mass", "predicted mass, p = 0.900"))
    assert "Accuracy on the images looked at: 0.625" in page.locator("#grid").inner_text()
    page.locator("summary", has_text="Settings").click()
    rows = dict(row.split("\t") for row in page.locator("#settings tbody tr").all_inner_texts())
    stored = json.loads((tmp_path / "epoch_0004" / "settings.json").read_text())
    assert rows["command"] == stored["command"] != ""
    assert rows["keras"] == stored["versions"]["keras"]
    assert "ab12" in rows["model"]
    page.locator("summary", has_text="Numbers of").click()
    assert "val_explain_integrated_gradients_auprc\t0.5" in page.locator("#numbers").inner_text()


def test_names_stay_text(browser, tmp_path):
    end = "</script><script>document.title='x'</script>"
    folder = training(tmp_path, names=(HOSTILE, HOSTILE + end, "c"), failures={HOSTILE: end}.items(), method=HOSTILE)
    page, said, _ = opened(browser, write_report(folder, tmp_path / "report.html", HOSTILE))
    assert page.title() == HOSTILE
    assert page.locator("img[src=x]").count() == 0
    assert HOSTILE in page.locator("#grid").inner_text()
    page.locator(".sample .view").first.click()
    page.keyboard.press("ArrowLeft")
    assert "epoch 1" in page.locator("#detail-title").inner_text()  # it follows the round
    assert end in page.locator("#detail").inner_text()
    assert page.title() == HOSTILE
    assert said == []
    for name in (HOSTILE, "../../etc"):
        kx.save_round(tmp_path / "other", samples_of(ids=[name]), [ramp()], {"title": name})
        page, said, _ = opened(browser, write_report(tmp_path / "other", tmp_path / "other.html"))
        assert f"image {name}" in page.locator("#grid").inner_text()
        assert said == []


def test_the_page_is_whole_or_is_not(tmp_path):
    folder = training(tmp_path)
    text = write_report(folder / "epoch_0004", tmp_path / "out" / "report.html").read_text("utf-8")
    assert text.endswith("</html>")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["report.html"]
    with pytest.raises(kx.InputError, match="holds no round; give the folder of one"):
        write_report(tmp_path / "out", tmp_path / "report.html")


def data_of(text):
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])


def test_rounds_are_in_the_order_of_their_epochs(tmp_path):
    for epoch in (9999, 10000):
        kx.save_round(tmp_path / "explanations" / f"epoch_{epoch:04d}", samples_of(), [], {"title": f"epoch {epoch}"})
    assert [place.name for place in rounds_in(tmp_path)] == ["epoch_9999", "epoch_10000"]
    text = write_report(tmp_path, tmp_path / "report.html").read_text("utf-8")
    assert [round["title"] for round in data_of(text)["rounds"].values()] == ["epoch 9999", "epoch 10000"]


def test_a_page_takes_over_the_rounds_of_an_earlier_one(tmp_path):
    earlier = write_report(training(tmp_path), tmp_path / "report.html").read_text("utf-8")
    report = Report("resumed")
    report.take_over(earlier, before=4)
    report.add("epoch_0004", samples_of(), [ramp()], {"title": "epoch 5 again"})
    report.add("epoch_0005", samples_of(), [ramp()], {"title": "epoch 6"})
    found = data_of(report.page())
    assert [round["title"] for round in found["rounds"].values()] == ["epoch 1", "epoch 5 again", "epoch 6"]
    other = Report("afresh")
    other.take_over(earlier, before=0)
    assert data_of(other.page())["rounds"] == {}
    assert found["rounds"]["epoch_0000"] == data_of(earlier)["rounds"]["epoch_0000"]
    for broken in ("", "<p>", '<script type="application/json" id="data">{"images": 3}</script>'):
        fresh = Report("fresh")
        fresh.take_over(broken, before=9)
        assert data_of(fresh.page())["rounds"] == {}


def test_images_of_one_name_are_all_there(tmp_path):
    samples = samples_of(3, ids=["3", "3", "over_training"])
    kx.save_round(tmp_path / "round", samples, [ramp(samples=3)])
    found = data_of(write_report(tmp_path / "round", tmp_path / "report.html").read_text("utf-8"))
    assert len({row["slot"] for row in found["rounds"]["round"]["rows"]}) == 3
    assert len(found["images"]) == 3


def test_settings_tell_two_maps_of_a_method_apart():
    first, second = (ramp(settings={"steps": n, "baseline": 0}) for n in (8, 64))
    assert titles([first, second, ramp("mine")]) == [
        "Integrated Gradients, steps 8",
        "Integrated Gradients, steps 64",
        "mine",
    ]
    assert titles([first]) == ["Integrated Gradients"]
    assert titles([ramp("mine"), ramp("mine")]) == ["mine", "mine (2)"]
    assert set(METHODS) == set(kx.explainers.METHODS)
    assert about("my_own").title == "my own"


# --- comparison, accessibility, print ----------------------------------------------------------------------------


def test_two_rounds_are_laid_side_by_side(browser, tmp_path):
    one, two = samples_of(2), samples_of(3, ids=["a", "b", "c"])
    turned = kx.Attribution(
        "integrated_gradients", np.concatenate([-RAMP, RAMP**3, RAMP]), [1] * 3, range(3), [0.5] * 3
    )
    agreement = compare((one, [ramp(samples=2)], {}), (two, [turned], {}), tmp_path / "c.html", ("old", "new"))
    assert agreement == {"Integrated Gradients": {"case 0": pytest.approx(-1), "case 1": pytest.approx(1)}}
    page, said, asked = opened(browser, tmp_path / "c.html")
    assert page.locator(".sample").count() == 2
    page.uncheck("#roi")
    settled(page)
    cell = page.locator(".sample td").first
    assert "rank agreement -1.00" in cell.inner_text()
    assert cell.locator(".pair .facts").all_inner_texts()[:2] == ["old, score 5", "new, score 0.5, full at 1"]
    grey = np.rint(255 * one.images[0, ..., 0])
    limit = np.percentile(np.abs(RAMP), 99.5)
    for n, scale in ((0, 1), (1, -1), (2, 2)):
        shown = at_own_size(drawn(page, ".sample:nth-of-type(1) td canvas", n))
        assert np.abs(shown - blended(scale * RAMP[0, ..., 0], limit, grey, 0.6)).max() <= 4
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    page.keyboard.press("ArrowRight")
    assert page.locator("#grid h2").inner_text() == "old"  # two sides are no epochs
    with pytest.raises(kx.InputError, match="old and new explain no image and class in common"):
        compare((one, [ramp(samples=2)], {}), (samples_of(1, side=8), [], {}), tmp_path / "d.html", ("old", "new"))
    with pytest.raises(kx.InputError, match="none in common"):
        compare((one, [ramp(samples=2)], {}), (two, [ramp("lime", samples=3)], {}), tmp_path / "d.html")


def test_like_is_compared_with_like(tmp_path):
    one = samples_of(3, ids=["a", "b", "b"])
    order = [2, 0, 1]
    two = one[order]
    first = np.concatenate([RAMP, RAMP**2, -RAMP])
    many = np.concatenate([np.stack([7 * RAMP[0], first[i]]) for i in order])  # class 0 first, then the images' own
    maps = kx.Attribution("mine", many, [0, 1] * 3, [0, 0, 1, 1, 2, 2], [0.0] * 6)
    same = kx.Attribution("mine", first, [1] * 3, range(3), [0.0] * 3)
    found = compare((one, [same], {}), (two, [maps], {}), tmp_path / "c.html")["mine"]
    assert list(found.values()) == pytest.approx([1, 1, 1])
    assert len(found) == 3
    asked = kx.Samples(one.images, [2, 1, 1], ids=one.ids)
    assert len(compare((one, [same], {}), (asked, [same], {}), tmp_path / "c.html")["mine"]) == 2  # not class 2 with 1
    settings = [{"steps": 8}, {"steps": 64}]
    pair = [ramp(samples=3, settings=one) for one in settings]
    compare((one, [pair[0]], {}), (one, [pair[1]], {}), tmp_path / "c.html", ("old", "new"))
    notes = data_of((tmp_path / "c.html").read_text("utf-8"))["notes"]
    assert notes == ["Integrated Gradients of old and new differ in their settings: steps 8 and 64."]
    found = compare((one, pair, {}), (one, [pair[1]], {}), tmp_path / "c.html")
    assert list(found) == ["Integrated Gradients"]
    assert data_of((tmp_path / "c.html").read_text("utf-8"))["notes"] == []


@pytest.mark.parametrize("what", ["training", "detail", "beside", "comparison", "volume"])
def test_no_serious_barrier(browser, tmp_path, what):
    if what == "comparison":
        compare((samples_of(), [ramp()], {}), (samples_of(), [ramp()], {}), tmp_path / "report.html")
    elif what == "volume":
        samples = kx.Samples(np.random.default_rng(0).random((1, 3, 12, 12, 2)), [0])
        found = kx.Attribution("mine", np.ones((1, 3, 12, 12, 2)), [0], [0], score=[1.0])
        kx.save_round(tmp_path / "round", samples, [found])
        write_report(tmp_path / "round", tmp_path / "report.html")
    else:
        write_report(training(tmp_path, failures={"lime": "broken"}.items()), tmp_path / "report.html")
    page, _, _ = opened(browser, tmp_path / "report.html")
    for summary in page.locator("main summary").all():
        if summary.is_visible():
            summary.click()
    if what == "beside":
        page.select_option("#beside", "0")
    if what == "detail":
        page.locator(".sample .view").first.click()
    found = Axe().run(page).response["violations"]
    assert [
        (one["id"], one["nodes"][0]["html"][:200]) for one in found if one["impact"] in ("serious", "critical")
    ] == []


def test_the_print_is_light_and_whole(browser, tmp_path):
    kx.save_round(tmp_path / "round", samples_of(12), [ramp(samples=12)])
    page, _, _ = opened(browser, write_report(tmp_path / "round", tmp_path / "report.html"), height=500)
    assert page.locator("canvas").evaluate_all("all => all.every(canvas => canvas.dataset.drawn)")  # out of view, too
    page.emulate_media(media="print")
    assert page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator("#controls").is_visible()
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.locator("#settings").is_visible()
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert not page.locator("#settings").is_visible()
    pdf = page.pdf(prefer_css_page_size=True)
    assert b"/MediaBox [0 0 841" in pdf or b"/MediaBox [0 0 842" in pdf  # A4, lying


def test_trouble_of_the_training_stands_apart_from_that_of_the_round(browser, tmp_path):
    report = Report("trouble")
    report.tell({"the round": "epoch 1: the <b>round</b> failed"})
    for rounds in (0, 1):
        if rounds:
            report.add("epoch_0000", samples_of(), [], {"failures": {"mine": "ValueError: no"}, "epoch": 0})
        (tmp_path / "page.html").write_text(report.page(), "utf-8")
        page = browser.new_page()
        page.goto(f"file://{tmp_path}/page.html")
        page.locator("body[data-ready=yes]").wait_for()
        said = page.locator("#grid .warnings")
        assert said.locator("b").count() == 0  # what comes from outside is text
        lines = said.locator("li").all_inner_texts()
        assert lines == [*["mine failed: ValueError: no"][:rounds], "epoch 1: the <b>round</b> failed"]
        assert said.locator("strong").last.inner_text() == "In the whole training, each kind of trouble once:"
        page.close()
