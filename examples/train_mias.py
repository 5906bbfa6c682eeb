"""Train on real mini-MIAS mammograms and explain the network while it learns.

    python examples/train_mias.py --data DIR [--tracking-uri http://127.0.0.1:5000]

DIR holds Info.txt and the mdb*.pgm pictures. Crops around the findings and from normal breasts, split by woman.
"""

import argparse

import keras
import mlflow
from keras import layers

import keras_explain as kx
from keras_explain.callbacks import ExplanationCallback
from keras_explain.datasets import mias


def build_model(size):
    """The nested ResNet50 of the mammography models, for grey crops."""
    backbone = keras.applications.ResNet50(weights=None, include_top=False, input_shape=(size, size, 3))
    for layer in backbone.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.9  # the statistics must settle within a few hundred steps
    image = keras.Input((size, size, 1))
    features = backbone(layers.Concatenate()([image, image, image]))
    scores = layers.Dense(len(mias.CLASS_NAMES), activation="softmax")(layers.GlobalAveragePooling2D()(features))
    model = keras.Model(image, scores, name="resnet50_mias")
    model.compile(keras.optimizers.Adam(3e-4), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with Info.txt and mdb*.pgm")
    parser.add_argument("--tracking-uri", default="sqlite:///mlflow.db")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--frequency", type=int, default=5, help="epochs between explanations")
    parser.add_argument("--size", type=int, default=96, help="side of a crop in pixels")
    parser.add_argument("--copies", type=int, default=12, help="shifted training crops of each finding")
    parser.add_argument("--samples", type=int, default=1000, help="samples of LIME; GradientShap takes a fifth")
    options = parser.parse_args()

    keras.utils.set_random_seed(0)
    train, _ = mias.crops(options.data, options.size, copies=options.copies, shift=20).split()
    _, held_out = mias.crops(options.data, options.size).split()
    for name, part in (("training", train), ("held out", held_out)):
        print(f"{name}: {len(part.labels)} crops of {len(set(part.women))} women")

    mlflow.set_tracking_uri(options.tracking_uri)
    mlflow.set_experiment("mini-MIAS")
    with mlflow.start_run() as run:
        explain = ExplanationCallback(
            # The fourth entry of validation data names the images; fit itself gets the first two.
            (held_out.images, held_out.labels, None, held_out.ids),
            explainers=[
                "vanilla",
                "guided",
                "rectified",
                "integrated_gradients",
                kx.Lime(samples=options.samples),
                kx.GradientShap(samples=options.samples // 5),
            ],
            class_names=mias.CLASS_NAMES,
            roi=dict(zip(held_out.ids, held_out.masks, strict=True)),
            frequency=options.frequency,
        )
        build_model(options.size).fit(
            train.images,
            train.labels,
            validation_data=(held_out.images, held_out.labels),
            epochs=options.epochs,
            batch_size=32,
            callbacks=[explain, mlflow.keras.MlflowCallback()],
            verbose=2,
        )
    print(f"run {run.info.run_id}")


if __name__ == "__main__":
    main()
