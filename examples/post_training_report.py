"""Explain a trained mammography classifier on its test data: pictures, numbers and one page to read them on.

    python examples/post_training_report.py models/model_2.keras --data DIR --task model_2 [--out report]

The model may be of Keras 3 or of Keras 2 (`resnet50_model_2_best_weights.h5`). How its images are made is read from
--settings, the `settings.json` of an explained round or the file that examples/train_ddsm.py leaves beside the model;
without it, grey pictures in [0, 1] of the model's own size are taken.
"""

import argparse
import warnings
from pathlib import Path

import keras_explain as kx
from keras_explain.datasets import ddsm, read
from keras_explain.datasets.cases import Stream
from keras_explain.datasets.preprocessing import Preprocessing
from keras_explain.engine import History, explain_round, write_round
from keras_explain.report import write_report


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="model file")
    parser.add_argument("--data", required=True, help="folder of the test data")
    parser.add_argument("--task", default="model_0", choices=ddsm.TASKS)
    parser.add_argument("--settings", help="file with the record of the preprocessing")
    parser.add_argument("--architecture", help="for a file of weights alone: resnet50")
    parser.add_argument("--out", type=Path, default=Path("report"))
    parser.add_argument("--images-per-class", type=int, default=1)
    parser.add_argument("--candidates", type=int, default=5000)
    parser.add_argument("--samples", type=int, default=1000, help="of LIME; GradientShap takes a fifth")
    options = parser.parse_args()

    task = ddsm.task(options.task)
    model = kx.load_model(options.model, architecture=options.architecture)
    if len(model.inputs[0].shape) != 4:
        raise SystemExit(f"{options.model} takes {model.inputs[0].shape[1:]}, which are no pictures.")
    height, width, channels = model.inputs[0].shape[1:]
    if options.settings:
        preprocessing = Preprocessing.from_settings(options.settings)
    else:
        preprocessing = Preprocessing(size=(height, width), channels=channels)
    data = Stream(read(options.data, "test", options.task), preprocessing, class_map=task.class_map)
    scorer = kx.Scorer(model)
    samples = kx.select(
        scorer,
        data,
        class_names=task.class_names,
        images_per_class=options.images_per_class,
        candidates=options.candidates,
        background=50,
    )
    print(f"accuracy {samples.accuracy:.3f} on the images looked at")
    for _, target in samples.missing:
        print(f"{samples.class_name(target)}: no image is predicted correctly")
    methods = [
        (name, kx.explainers.resolve(name)) for name in ("vanilla", "guided", "rectified", "integrated_gradients")
    ]
    methods += [
        ("lime", kx.Lime(samples=options.samples)),
        ("gradient_shap", kx.GradientShap(samples=options.samples // 5)),
    ]
    metrics = [*kx.metrics.default(), kx.metrics.Faithfulness()]
    found = explain_round(
        scorer, samples, methods, metrics, None, lambda name, error: warnings.warn(f"{name}: {error}", stacklevel=1)
    )
    settings = {
        "model": Path(options.model).name,
        "task": options.task,
        "preprocessing": preprocessing.as_settings(),
        "images_per_class": options.images_per_class,
        "candidates": options.candidates,
    }
    write_round(options.out / "round", found, History(), options.task, settings)
    for name, attribution in zip(found.methods, found.attributions, strict=True):
        means = kx.metrics.means(attribution)
        told = (
            f"{m} {means[m]:.3g}"
            for m in ("relative_completeness_error", "r2", "auprc", "deletion", "insertion")
            if m in means
        )
        print(f"{name}: {', '.join(told)}")
    page = write_report(
        options.out / "round", options.out / "report.html", f"{options.task}: {Path(options.model).name}"
    )
    print(f"report {page}")


if __name__ == "__main__":
    main()
