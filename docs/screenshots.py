"""The pictures of README and docs, made anew: a training with its page, the MLflow UI and a comparison, photographed.

python docs/screenshots.py        (a few minutes; needs Debian's chromium)
"""

import contextlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import keras
import mlflow
from keras import layers
from playwright.sync_api import sync_playwright

import keras_explain as kx
from keras_explain.callbacks import ExplanationCallback
from keras_explain.comparison import compare
from keras_explain.datasets import phantom
from keras_explain.tracking.runs import rounds_of

IMAGES = Path(__file__).with_name("images")
SIDE, MALIGNANT_CALCIFICATION = 96, 3


def train(server):
    """A small network that learns phantoms, explained every second epoch; the id of its run."""
    keras.utils.set_random_seed(0)
    images, labels, _ = phantom.mammograms(2000, SIDE, seed=0)
    valid = phantom.mammograms(250, SIDE, seed=1)
    steps = [keras.Input((SIDE, SIDE, 1))]
    for filters in (16, 32, 48, 64):
        steps += [layers.Conv2D(filters, 3, padding="same", use_bias=False), layers.BatchNormalization(momentum=0.9)]
        steps += [layers.ReLU(), layers.MaxPooling2D()]
    model = keras.Sequential([*steps, layers.GlobalMaxPooling2D(), layers.Dense(5, activation="softmax")], name="small")
    model.compile(keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    tracker = kx.MlflowTracker(tracking_uri=server)
    callback = ExplanationCallback(
        (valid.images, valid.labels),
        class_names=phantom.CLASS_NAMES,
        roi=valid.masks,
        frequency=2,
        why_not=["integrated_gradients"],
        tracker=tracker,
        on_error="raise",
    )
    known = (valid.images, valid.labels)
    model.fit(images, labels, validation_data=known, epochs=9, batch_size=32, callbacks=[callback], verbose=2)
    return tracker.run_id


@contextlib.contextmanager
def mlflow_server(folder):
    """The address of a server of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", address.split(":")[1]]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--artifacts-destination", f"{folder}/store"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder)
    try:
        for _ in range(240):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{address}/health", timeout=2):
                break
            time.sleep(0.5)
        yield f"http://{address}"
    finally:
        server.terminate()


def photograph(browser, address, name, act=lambda page: None, width=1500, height=1000):
    """One picture of a page after something was done to it."""
    page = browser.new_page(viewport={"width": width, "height": height})
    page.goto(address)
    page.wait_for_timeout(3000)
    for assistant in page.get_by_label("Close").all():  # MLflow's own, which takes a third of the window
        if assistant.is_visible():
            assistant.click()
    act(page)
    page.wait_for_timeout(1500)
    page.screenshot(path=IMAGES / name)
    page.close()


def open_one(page):
    """The map of Integrated Gradients for the malignant calcification, with every class."""
    page.locator(".sample").nth(MALIGNANT_CALCIFICATION).locator("td").nth(3).locator(".view").click()


def show_cards(page):
    """MLflow's cards of the classes, at the last step."""
    page.locator("img[src*='images']").nth(3).wait_for(timeout=60_000)
    for slider in page.locator("[role=slider]").all():
        slider.focus()
        for _ in range(4):
            page.keyboard.press("ArrowRight")


def main():
    """Train, draw, photograph."""
    with tempfile.TemporaryDirectory() as folder, mlflow_server(folder) as server:
        run = train(server)
        mlflow.set_tracking_uri(server)
        rounds = rounds_of(run, Path(folder))
        samples, attributions, _ = kx.load_round(rounds / "epoch_0008")
        own = [attribution[attribution.targets == samples.targets[attribution.rows, 0]] for attribution in attributions]
        one = [attribution.of(MALIGNANT_CALCIFICATION) for attribution in own]
        kx.figures.panel(samples[[MALIGNANT_CALCIFICATION]], one, title="epoch 9").savefig(IMAGES / "panel.png")
        page = mlflow.MlflowClient().download_artifacts(run, "explanations/report.html", folder)
        pages = {"report": Path(page), "comparison": Path(folder) / "comparison.html"}
        earlier = kx.load_round(rounds / "epoch_0006")
        compare(earlier, kx.load_round(rounds / "epoch_0008"), pages["comparison"], ("epoch 7", "epoch 9"))
        view = f"{server}/#/experiments/0/runs/{run}"
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            photograph(browser, pages["report"].as_uri(), "report.png")
            photograph(browser, pages["report"].as_uri(), "one_map.png", open_one, height=900)
            photograph(browser, pages["comparison"].as_uri(), "comparison.png", width=1900, height=900)
            photograph(browser, f"{view}/model-metrics", "mlflow_cards.png", show_cards)
            photograph(browser, f"{view}/artifacts/explanations/report.html", "mlflow_page.png", width=1700)
            browser.close()


if __name__ == "__main__":
    main()
