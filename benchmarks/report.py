"""Size and speed of the page: 50 images by 6 methods by 10 epochs at 299 x 299, in a real browser.

python -m benchmarks.report
"""

import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright
from scipy.ndimage import gaussian_filter

import keras_explain as kx
from benchmarks import record
from keras_explain.datasets import phantom
from keras_explain.report import Report, write_page

IMAGES, EPOCHS, SIDE = 50, 10, 299
METHODS = ("vanilla", "guided", "rectified", "integrated_gradients", "lime", "gradient_shap")


def rounds():
    """Maps like those of a network: noise along the edges, and superpixels for LIME."""
    data = phantom.mammograms(IMAGES, SIDE, seed=0)
    images, labels, roi = data.images, data.labels, data.masks
    random = np.random.default_rng(0)
    edges = np.abs(
        np.stack([gaussian_filter(image[..., 0], 1) - gaussian_filter(image[..., 0], 3) for image in images])
    )
    blocks = random.normal(size=(IMAGES, 13, 13))
    for epoch in range(EPOCHS):
        samples = kx.Samples(images, labels, labels=labels, confidence=np.full(IMAGES, 0.9), roi=roi)
        maps = []
        for method in METHODS:
            noise = random.standard_t(4, edges.shape) * (0.02 + edges)
            if method == "lime":
                noise = np.repeat(np.repeat(blocks + 0.1 * random.normal(size=blocks.shape), 23, 1), 23, 2)
            maps.append(kx.Attribution(method, noise[..., None], labels, range(IMAGES), score=np.ones(IMAGES)))
        yield f"epoch_{epoch:04d}", samples, maps, {"title": f"epoch {epoch + 1}", "epoch": epoch}


def main():
    """Write the page, open it, and do what a reader does."""
    lines = ["| | |", "|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        report, drawn = Report("Fifty images", EPOCHS), 0.0
        for made in rounds():
            start = time.perf_counter()
            report.add(*made)
            drawn += time.perf_counter() - start
        start = time.perf_counter()
        file = write_page(report, Path(folder) / "report.html")
        lines.append(f"| size of the page | {file.stat().st_size / 1e6:.1f} MB (limit 30) |")
        writing = time.perf_counter() - start
        many = IMAGES * len(METHODS)
        lines.append(f"| making it | {drawn / EPOCHS:.1f} s a round of {many} maps, writing {writing:.1f} s |")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1800, "height": 1100})
            start = time.perf_counter()
            page.goto(file.as_uri())
            page.wait_for_selector("body[data-ready=yes]")
            lines.append(f"| opening it, to the first pictures | {time.perf_counter() - start:.1f} s |")
            for words, act in (
                ("another epoch", "goTo(state.round - 1)"),
                ("another opacity", "set('opacity', 0.3)"),
                ("contours", "set('mode', 'contour')"),
            ):
                start = time.perf_counter()
                page.evaluate(act)
                while page.evaluate("due || [...inView].some(canvas => late.has(canvas))"):
                    time.sleep(0.005)
                page.evaluate("Promise.all([...inView].map(refresh))")
                lines.append(f"| {words}, all that is in view drawn twice | {time.perf_counter() - start:.2f} s |")
            memory = page.evaluate("performance.memory.usedJSHeapSize") / 1e6
            lines.append(f"| memory of its script | {memory:.0f} MB |")
            browser.close()
    record("Report", [f"{IMAGES} images, {len(METHODS)} methods, {EPOCHS} epochs, {SIDE} x {SIDE} pixels.", "", *lines])


if __name__ == "__main__":
    main()
