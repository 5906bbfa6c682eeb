"""The page: opened from disk in a real browser, scrolled through, and fed with hostile names."""

import json
import re

import numpy as np
import pytest

import keras_explain as kx
from keras_explain.engine import History, Round, write_round
from keras_explain.report import write_report

HOSTILE = "<img src=x onerror=document.title='broken'>"


def volume_rounds(folder, names=("nucleoli", "Golgi"), failures=()):
    """Two rounds of one volume with a map in slice 1 for the class and in slice 2 against it."""
    images = np.zeros((1, 4, 16, 16, 2))
    images[0, :, 4:12, 4:12] = 0.8
    values = np.zeros_like(images)
    values[0, 1, 6:8, 6:8, 0], values[0, 2, 8:10, 8:10, 1] = 1.0, -1.0
    samples = kx.Samples(images, [1], labels=[1], confidence=[0.9], class_names=names, ids=["cell 7"])
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
    file = write_report(volume_rounds(tmp_path), tmp_path / "report.html", "Cells", ["structure", "DNA"])
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
        tmp_path, names=(HOSTILE, HOSTILE), failures={HOSTILE: "</script><script>document.title='x'"}.items()
    )
    file = write_report(folder, tmp_path / "report.html", HOSTILE, [HOSTILE, "b"])
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
