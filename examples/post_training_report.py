"""Explain a trained mammography classifier on its test data: pictures, numbers and one page to read them on.

    python examples/post_training_report.py models/model_2.keras --data DIR --task model_2 [--out report]

The model may be of Keras 3 or of Keras 2 (`resnet50_model_2_best_weights.h5`). How its images are made is read from
--settings, the `settings.json` of an explained round or the file that examples/train_ddsm.py leaves beside the model;
without it, grey pictures in [0, 1] of the model's own size are taken.
"""

import argparse
from pathlib import Path

import keras_explain as kx
from keras_explain.datasets import ddsm, read
from keras_explain.datasets.cases import Stream
from keras_explain.datasets.preprocessing import Preprocessing
from keras_explain.post_training import explain_selected

METHODS = ("vanilla", "guided", "rectified", "smoothgrad", "integrated_gradients")
TOLD = ("relative_completeness_error", "r2", "auprc", "roi_area", "deletion", "insertion")


def prepared(options, model):
    """The test data as the model was trained on them."""
    if len(model.inputs[0].shape) != 4:
        raise SystemExit(f"{options.model} takes {model.inputs[0].shape[1:]}, which are no pictures.")
    height, width, channels = model.inputs[0].shape[1:]
    preprocessing = Preprocessing(size=(height, width), channels=channels)
    if options.settings:
        preprocessing = Preprocessing.from_settings(options.settings)
    cases = read(options.data, "test", options.task)
    return Stream(cases, preprocessing, class_map=ddsm.task(options.task).class_map)


def explained(options, model, data):
    """The surest images of each class, explained by every method and measured; `options.out` holds round and page."""
    scorer = kx.Scorer(model)
    samples = kx.select(
        scorer,
        data,
        class_names=ddsm.task(options.task).class_names,
        images_per_class=options.images_per_class,
        candidates=options.candidates,
        background=50,
    )
    print(f"accuracy {samples.accuracy:.3f} on the images looked at")
    for _, target in samples.missing:
        print(f"{samples.class_name(target)}: no image is predicted correctly")
    settings = {
        "file": Path(options.model).name,
        "task": options.task,
        "preprocessing": data.preprocessing.as_settings(),
        "images_per_class": options.images_per_class,
        "candidates": options.candidates,
    }
    return explain_selected(
        scorer,
        samples,
        [*METHODS, kx.Lime(options.samples), kx.GradientShap(samples=options.samples // 5)],
        options.out,
        metrics=[*kx.metrics.default(), "faithfulness"],
        title=f"{options.task}: {Path(options.model).name}",
        settings=settings,
    )


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

    model = kx.load_model(options.model, architecture=options.architecture)
    data = prepared(options, model)
    found = explained(options, model, data)
    for name, attribution in zip(found.methods, found.attributions, strict=True):
        means = kx.metrics.means(attribution)
        print(f"{name}: {', '.join(f'{measure} {means[measure]:.3g}' for measure in TOLD if measure in means)}")
    print(f"report {options.out / 'report.html'}")


if __name__ == "__main__":
    main()
