"""Which methods notice that the network forgets? The cascading randomization of a ResNet50 trained on phantoms.

    python -m benchmarks.randomization [--images 10] [--model FILE.keras]

Trains the network of the demo, or takes one that was saved, and draws docs/images/randomization.png.
"""

import argparse
from pathlib import Path

import keras
import numpy as np
from matplotlib.figure import Figure

import keras_explain as kx
from benchmarks import record
from keras_explain.datasets import phantom
from keras_explain.demo import build_model

SIZE, EPOCHS = 64, 6
COLOURS = ("#000000", "#d55e00", "#e69f00", "#0072b2", "#009e73", "#cc79a7")
TITLES = {"spearman": "rank correlation, signed", "spearman_absolute": "rank correlation, absolute", "ssim": "SSIM"}


def train():
    images, labels, _ = phantom.mammograms(1280, SIZE, seed=0, channels=3)
    model = build_model(SIZE, len(phantom.CLASS_NAMES), steps=EPOCHS * 40)
    model.fit(images, labels, batch_size=32, epochs=EPOCHS, verbose=0)
    return model


def draw(curves, path):
    """One plot a similarity, one line a method: mean over images, and the range of half of them."""
    figure = Figure((11, 3.6), dpi=110, facecolor="white")
    for place, (similarity, title) in enumerate(TITLES.items()):
        axes = figure.add_subplot(1, 3, place + 1)
        for colour, (name, stages) in zip(COLOURS, curves[similarity].items(), strict=True):
            x = np.arange(stages.shape[1] + 1)
            values = np.concatenate([np.ones((len(stages), 1)), stages], axis=1)
            axes.plot(x, values.mean(axis=0), color=colour, marker="o", markersize=3, label=name.replace("_", " "))
            axes.fill_between(x, *np.percentile(values, [25, 75], axis=0), color=colour, alpha=0.12, linewidth=0)
        axes.set_title(title, fontsize=10)
        axes.set_ylim(-0.35, 1.05)
        axes.set_xlabel("groups of layers re-initialised, from the output", fontsize=8)
        axes.tick_params(labelsize=8)
    figure.legend(*axes.get_legend_handles_labels(), loc="lower center", ncols=6, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    figure.savefig(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10, help="explained, in the five classes in turn")
    parser.add_argument("--model", help="a .keras file of the demo's network, 64 pixels")
    options = parser.parse_args()
    keras.utils.set_random_seed(0)
    model = keras.models.load_model(options.model) if options.model else train()
    images, labels, _ = phantom.mammograms(250, SIZE, seed=1, channels=3)
    samples = kx.select(model, (images, labels), images_per_class=options.images // 5, background=50)
    scorer = kx.Scorer(model)
    methods = {
        "vanilla": kx.Saliency(),
        "guided": kx.Saliency("guided"),
        "rectified": kx.Saliency("rectified"),
        "integrated_gradients": kx.IntegratedGradients(),
        "gradient_shap": kx.GradientShap(samples=100),
        "lime": kx.Lime(samples=300),
    }
    curves = {similarity: {} for similarity in TITLES}
    lines = [
        f"The demo's ResNet50 ({SIZE} pixels, {EPOCHS} epochs, validation accuracy {samples.accuracy:.2f}) on "
        f"{len(samples)} phantoms; mean over them and over the 8 stages of the cascade.",
        "",
        "| method | signed rank correlation | after the top layer | after half | absolute | SSIM "
        "| SSIM of different images | passes | share that passes Arun's rule |",
        "|---" * 9 + "|",
    ]
    for name, method in methods.items():
        found = kx.explain(scorer, samples, method)
        measured = kx.metrics.measure(scorer, samples, found, ["randomization"], explainer=method).measures
        for similarity, lines_of in curves.items():
            lines_of[name] = measured[f"randomization_{similarity}_stages"]
        mean = {key.removeprefix("randomization_"): rows.mean() for key, rows in measured.items() if rows.ndim == 1}
        signed = curves["spearman"][name].mean(axis=0)
        lines.append(
            f"| {name} | {mean['spearman']:.2f} | {signed[0]:.2f} | {signed[3]:.2f} | {mean['spearman_absolute']:.2f} "
            f"| {mean['ssim']:.2f} | {mean['ssim_of_images']:.2f} | {'yes' if mean['passed'] else 'no'} "
            f"| {mean['arun']:.0%} |"
        )
        print(lines[-1], flush=True)
    draw(curves, Path(__file__).parent.parent / "docs" / "images" / "randomization.png")
    record("Cascading randomization", [*lines, "", "Written by `python -m benchmarks.randomization`."])


if __name__ == "__main__":
    main()
