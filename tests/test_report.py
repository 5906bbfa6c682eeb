"""The page: opened from disk in a real browser, scrolled through, and fed with hostile names."""

import io
import json
import re

import numpy as np
import pytest
from PIL import Image

import keras_explain as kx
from keras_explain.engine import History, Round, write_round
from keras_explain.report import write_report

HOSTILE = "<img src=x onerror=document.title='broken'>"


def volume_rounds(folder, names=("nucleoli", "Golgi"), failures=(), channels=("structure", "DNA")):
    """Two rounds of one volume with a map in slice 1 for the class and in slice 2 against it."""
    images = np.zeros((1, 4, 16, 16, 2))
    images[0, :, 4:12, 4:12] = 0.8
    values = np.zeros_like(images)
    values[0, 1, 6:8, 6:8, 0], values[0, 2, 8:10, 8:10, 1] = 1.0, -1.0
    samples = kx.Samples(
        images,
        [1],
        labels=[1],
        confidence=[0.9],
        class_names=names,
        channel_names=channels,
        ids=["cell 7"],
        accuracy=0.625,
    )
    found = kx.Attribution("integrated_gradients", values, [1], [0], score=[0.0], base_score=[0.0])
    for epoch in range(2):
        made = Round(samples, ["integrated_gradients"], [found], {"val_explain_auprc": 0.25 + epoch}, dict(failures))
        history = History()
        history.add(epoch, made)
        write_round(
            folder / f"epoch_{epoch:04d}", made, history, f"epoch {epoch + 1}", {"epoch": epoch, "note": names[0]}
        )
    return folder


def opened(browser, file):
    """A page of a file, with what it said to its console and asked of the network."""
    page = browser.new_page(viewport={"width": 1200, "height": 1600})
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    return page, said, asked


def test_the_page_scrolls_through_slices_and_epochs_without_a_network(browser, tmp_path):
    file = write_report(volume_rounds(tmp_path), tmp_path / "report.html", "Cells")
    page, said, asked = opened(browser, file)
    assert page.title() == "Cells"
    shown = page.locator("section.round:visible")
    assert shown.count() == 1
    assert "epoch 2" in shown.inner_text()
    assert shown.locator("figure img").first.evaluate("image => image.complete && image.naturalWidth > 300")
    strip = shown.locator(".strip").first
    slider = shown.locator(".slice")
    assert shown.locator("output").first.inner_text() == "3 of 4"

    def picture():
        return strip.screenshot()

    before = picture()
    slider.focus()
    page.keyboard.press("ArrowLeft")
    assert shown.locator("output").first.inner_text() == "2 of 4"
    after = picture()
    assert before != after
    page.keyboard.press("ArrowRight")
    assert picture() == before
    page.locator("#round").focus()
    page.keyboard.press("ArrowLeft")
    assert "epoch 1" in page.locator("section.round:visible").inner_text()
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


def test_names_stay_text(browser, tmp_path):
    folder = volume_rounds(
        tmp_path,
        names=(HOSTILE, HOSTILE),
        failures={HOSTILE: "</script><script>document.title='x'"}.items(),
        channels=(HOSTILE, "b"),
    )
    file = write_report(folder, tmp_path / "report.html", HOSTILE)
    page, said, _ = opened(browser, file)
    assert page.title() == HOSTILE
    assert page.locator("img[src=x]").count() == 0
    assert HOSTILE in page.locator("section.round:visible").inner_text()
    assert said == []


def test_the_numbers_settings_and_failures_are_on_the_page(tmp_path):
    folder = volume_rounds(tmp_path, failures={"lime": "InputError: nothing to hide"}.items())
    text = write_report(folder / "epoch_0001", tmp_path / "out" / "report.html").read_text("utf-8")
    assert re.search(r"<td>val_explain_auprc</td><td>1\.25</td>", text)
    assert "lime failed: InputError: nothing to hide" in text
    assert 'id="round"' not in text  # one round needs no slider
    versions = json.loads((folder / "epoch_0001" / "settings.json").read_text())["versions"]
    assert f"<td>keras</td><td>{versions['keras']}</td>" in text
    with pytest.raises(kx.InputError, match="holds no round; give the folder of one"):
        write_report(tmp_path / "out", tmp_path / "report.html")


def test_each_slice_is_seen_alone_in_wide_and_narrow_windows(browser, tmp_path):
    """Slice k has the grey value 85 k; what is on the screen is that of the slider's place, from first to last."""
    images = np.zeros((2, 4, 12, 12, 1))
    images[1] = np.linspace(0, 1, 4)[:, None, None, None]  # the second volume, so that rows cannot be mixed up
    values = np.zeros((4, 4, 12, 12, 1))
    values[3, :, :4] = 1.0  # the second volume, second target: the upper rows are red
    samples = kx.Samples(images, [[0, 1], [0, 1]])
    found = kx.Attribution("mine", values, [0, 1, 0, 1], [0, 0, 1, 1], score=np.zeros(4))
    kx.save_round(tmp_path / "round", samples, [found])
    page, _, _ = opened(browser, write_report(tmp_path / "round", tmp_path / "report.html"))
    volume = page.locator(".volume").nth(3)
    slider = volume.locator(".slice")
    for width in (1200, 340):
        page.set_viewport_size({"width": width, "height": 900})
        slider.focus()
        page.keyboard.press("Home")
        for k in range(4):
            assert volume.locator("output").inner_text() == f"{k + 1} of 4"
            with Image.open(io.BytesIO(volume.locator(".strip").screenshot())) as shot:
                pixels = np.asarray(shot.convert("RGB")).astype(int)
            height, across = pixels.shape[:2]
            grey = pixels[3:-3, across // 6]  # a window cuts between two of its own pixels
            assert np.abs(grey - 85 * k).max() <= 2  # from top to bottom of the window one slice only
            red, _, blue = pixels[height // 6, across // 2]
            assert red > blue + 50
            red, _, blue = pixels[5 * height // 6, across // 2]
            assert abs(red - blue) < 5
            page.keyboard.press("ArrowRight")
    first = page.locator(".volume").nth(0).locator(".strip")
    with Image.open(io.BytesIO(first.screenshot())) as shot:
        assert np.asarray(shot.convert("L"))[:, 5].max() == 0  # the first volume is black


def test_a_round_without_pictures_is_drawn(tmp_path):
    samples = kx.Samples(np.zeros((2, 8, 8, 1)), [0, 1], ids=["left", "right"])
    found = kx.Attribution("mine", np.ones((2, 8, 8, 1)), [0, 1], [0, 1], score=[64.0, 64.0])
    kx.save_round(tmp_path / "round", samples, [found], {"title": "by hand"})
    text = write_report(str(tmp_path / "round"), tmp_path / "report.html").read_text("utf-8")
    assert text.count("data:image/png") == 2
    assert all(f"The image {name} and its explanations" in text for name in ("left", "right"))
    assert "by hand" in text
    assert "Accuracy" not in text  # nobody looked
    assert "Accuracy on the images looked at: 0.625" in write_report(
        volume_rounds(tmp_path / "rounds"), tmp_path / "other.html"
    ).read_text("utf-8")


def test_images_of_one_name_and_of_odd_names_are_all_drawn(tmp_path):
    samples = kx.Samples(np.zeros((3, 8, 8, 1)), [0, 0, 0], ids=["3", "3", "over_training"])
    found = kx.Attribution("mine", np.ones((3, 8, 8, 1)), [0, 0, 0], [0, 1, 2], score=[64.0] * 3)
    kx.save_round(tmp_path / "round", samples, [found])
    text = write_report(tmp_path / "round", tmp_path / "report.html").read_text("utf-8")
    assert text.count("data:image/png") == 3
    assert "Over training" not in text


def test_rounds_are_in_the_order_of_their_epochs(tmp_path):
    samples = kx.Samples(np.zeros((1, 8, 8, 1)), [0])
    for epoch in (9999, 10000):
        kx.save_round(tmp_path / f"epoch_{epoch:04d}", samples, [], {"title": f"epoch {epoch}"})
    text = write_report(tmp_path, tmp_path / "report.html").read_text("utf-8")
    assert text.index('data-title="epoch 9999"') < text.index('data-title="epoch 10000"')
