"""Train one of the six mammography classifiers and explain it while it learns.

    python examples/train_ddsm.py --data DIR --task model_2 [--tracking-uri http://127.0.0.1:5000]

DIR holds DDSM tiles (TFRecords, or images with their tables), CBIS-DDSM, or mini-MIAS; see keras_explain.datasets.read.
The network is the ResNet50 of Keras 2, as one layer, on grey pictures of three equal channels in [0, 1]. The model, and
the record of how its images were made, are left in OUT for examples/post_training_report.py.
"""

import argparse
import json
from pathlib import Path

import keras
import mlflow

import keras_explain as kx
from keras_explain.callbacks import ExplanationCallback
from keras_explain.datasets import ddsm, read
from keras_explain.datasets.cases import Stream, split
from keras_explain.datasets.preprocessing import Preprocessing
from keras_explain.model_files import resnet50


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of the training data")
    parser.add_argument("--task", default="model_0", choices=ddsm.TASKS)
    parser.add_argument("--out", type=Path, default=Path("models"), help="folder of the model")
    parser.add_argument("--tracking-uri", default="sqlite:///mlflow.db")
    parser.add_argument("--start", help="model file to go on from, of any age; random weights without it")
    parser.add_argument("--size", type=int, default=299, help="side of the images in pixels")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--frequency", type=int, default=5, help="epochs between explanations")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--candidates", type=int, default=5000, help="validation images to choose from")
    parser.add_argument("--samples", type=int, default=1000, help="of LIME; GradientShap takes a fifth")
    options = parser.parse_args()

    keras.utils.set_random_seed(0)
    task = ddsm.task(options.task)
    train, held_out = split(read(options.data, "train", options.task))
    preprocessing = Preprocessing(size=(options.size, options.size), channels=3)
    common = {"preprocessing": preprocessing, "batch_size": options.batch_size, "class_map": task.class_map}
    training, validation = Stream(train, shuffle=True, **common), Stream(held_out, **common)
    print(f"{options.task}: {', '.join(task.class_names)}; {len(train)} images to train on, {len(held_out)} held out")

    model = kx.load_model(options.start) if options.start else resnet50(len(task.class_names), options.size)
    model.compile(keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy", metrics=["accuracy"])
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / f"{options.task}.keras"
    mlflow.set_tracking_uri(options.tracking_uri)
    mlflow.set_experiment("ddsm")
    with mlflow.start_run(run_name=options.task) as run:
        explain = ExplanationCallback(
            validation,
            explainers=[
                "vanilla",
                "guided",
                "rectified",
                "integrated_gradients",
                kx.Lime(samples=options.samples),
                kx.GradientShap(samples=options.samples // 5),
            ],
            class_names=task.class_names,
            candidates=options.candidates,
            frequency=options.frequency,
        )
        best = keras.callbacks.ModelCheckpoint(file, "val_accuracy", mode="max", save_best_only=True)
        model.fit(
            training,
            validation_data=validation,
            epochs=options.epochs,
            class_weight=training.class_weight,
            callbacks=[explain, best, mlflow.keras.MlflowCallback()],
            verbose=2,
        )
    (options.out / f"{options.task}.json").write_text(json.dumps({"preprocessing": preprocessing.as_settings()}))
    print(f"MLflow run {run.info.run_id}, best model {file}")


if __name__ == "__main__":
    main()
