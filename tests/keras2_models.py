"""Writes tests/data/keras2: small models saved by Keras 2.15, with what they predict.

pip install tensorflow-cpu==2.15.* keras==2.15.*
python tests/keras2_models.py
"""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers

OUT = Path(__file__).parent / "data" / "keras2"


def backbone(name="resnet50"):
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same")(image)
    x = layers.BatchNormalization(axis=3)(x)
    y = layers.ReLU()(x)
    x = layers.Add()([layers.DepthwiseConv2D(3, padding="same")(y), x])
    return keras.Model(image, x, name=name)


def nested():
    image = keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D()(backbone()(image))
    return keras.Model(image, layers.Dense(3, activation="softmax")(x))


def sequential():
    steps = [layers.GlobalMaxPooling2D(), layers.Dropout(0.5), layers.Dense(3, activation="softmax")]
    return keras.Sequential([backbone(), *steps])


def twice():
    """A nested Sequential that is called twice, and again within a model of models."""
    shared = keras.Sequential([keras.Input((8, 8, 3)), layers.SeparableConv2D(3, 3, padding="same")], name="shared")
    image = keras.Input((8, 8, 3))
    inner = keras.Model(image, layers.Concatenate()([shared(shared(image)), image]), name="inner")
    outer = keras.Input((8, 8, 3))
    x = layers.Flatten()(layers.Conv2DTranspose(2, 3)(inner(outer)))
    return keras.Model(outer, layers.Activation("softmax")(layers.Dense(3)(x)))


def recurrent():
    x = image = keras.Input((8, 8, 3))
    x = layers.TimeDistributed(layers.LSTM(3))(x)
    x = layers.Bidirectional(layers.GRU(2))(x)
    return keras.Model(image, layers.Dense(3, activation="softmax")(x))


def deferred():
    """A Sequential that learned its shape from its first call."""
    model = keras.Sequential([layers.Conv2D(2, 3, activation="relu"), layers.Flatten(), layers.Dense(3, "softmax")])
    model(np.zeros((1, 8, 8, 3), "float32"))
    return model


def code():
    return keras.Sequential([keras.Input((8, 8, 3)), layers.Lambda(lambda x: x / 2), layers.Flatten(), layers.Dense(3)])


def operation():
    image = keras.Input((8, 8, 3))
    return keras.Model(image, layers.Dense(3)(layers.Flatten()(tf.math.truediv(image, 2.0))))


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    x = random.normal(0, 2, (4, 8, 8, 3)).astype("float32")
    predictions = {"x": x}
    for make in (nested, sequential, twice, recurrent, deferred, code, operation):
        keras.utils.set_random_seed(0)
        model = make()
        for variable in model.weights:
            values = random.normal(0, 0.3, variable.shape)
            variable.assign(0.5 + np.abs(values) if "variance" in variable.name else values)
        if make is nested:  # moments of its optimizer in the file, as after a training
            model.compile("adam", "categorical_crossentropy", metrics=["acc"])
            model.fit(x, np.eye(3)[[0, 1, 2, 0]], verbose=0)
            model.save_weights(OUT / "nested-weights.h5")
            model.save_weights(OUT / "nested.weights.h5")
        predictions[make.__name__] = model.predict(x, verbose=0)
        for ending in ("h5", "keras"):
            model.save(OUT / f"{make.__name__}.{ending}")
    np.savez_compressed(OUT / "predictions.npz", **predictions)


if __name__ == "__main__":
    main()
