"""Model files of any age: what Keras 2 has written is told anew in the words of Keras 3, and every weight is counted.

Nothing in a file is executed. A whole model of Keras 2 holds its architecture as JSON; that is rewritten, Keras makes
the model of it, and each tensor of the file is given to the weight of the same name, or place, and of the same kind and
shape. A loader that skips what it does not find leaves weights at random; here none may be left over on either side.
"""

from __future__ import annotations

import inspect
import json
import re
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import layers

from keras_explain.errors import ExplanationWarning, InputError

if TYPE_CHECKING:
    import h5py

_MODELS = ("Functional", "Model", "Sequential")
_OPERATIONS = ("TFOpLambda", "SlicingOpLambda", "TensorFlowOpLayer")
# What Keras 2 wrote, with the value at which leaving it out changes nothing; None where no value changes anything.
_OBSOLETE = {"groups": 1, "time_major": False, "ragged": False, "batch_input_shape": None, "implementation": None}
# Keras 3 calls some weights by shorter names.
_RENAMED = {"depthwise_kernel": "kernel"}


def load_model(
    path: str | Path,
    *,
    architecture: str | keras.Model | None = None,
    custom_objects: Mapping[str, Any] | None = None,
    safe_mode: bool = True,
) -> keras.Model:
    """Load a Keras model, uncompiled, from a file of Keras 3 or of Keras 2, with all its weights.

    Args:
        path: of a `.keras` file, a whole model in `.h5`, or a file of weights alone.
        architecture: for a file of weights alone, the model that takes them, or the name of one: `"resnet50"` is Keras
            2's ResNet50 for images of 299 x 299 x 3 (its batch normalisation has an epsilon of 1e-3, that of Keras 3
            1.001e-5) as one layer, global average pooling and a softmax over as many classes as the file has.
        custom_objects: the user's own layers and functions by name, as in `keras.models.load_model`.
        safe_mode: refuse Lambda layers, which hold code.

    Returns:
        The model; compile it to train on.

    Raises:
        InputError: no such file, one that is cut off or of another kind, weights without an architecture or for another
            one, Lambda layers in safe mode, and what Keras 3 has no layer for.

    Examples:
        >>> import keras, keras_explain as kx
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, activation="softmax")])
        >>> model.save("model.keras")
        >>> kx.load_model("model.keras").count_params()
        10
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder. A SavedModel holds compiled code only; save the model as .keras or .h5.")
    if not path.is_file():
        raise InputError(f"{path} does not exist.")
    given = dict(custom_objects or {})
    try:
        if zipfile.is_zipfile(path):
            return _from_zip(path, architecture, given, safe_mode)
        return _from_h5(path, architecture, given, safe_mode)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:  # a damaged file raises whatever its part of Keras, h5py, json or zipfile does
        words = f"{path} is cut off or damaged, or neither a .keras nor an .h5 file of Keras."
        raise InputError(f"{words} {type(error).__name__}: {_short(error)}") from error


def _short(error: Exception) -> str:
    """The innermost of the messages that Keras wraps around each other."""
    return " ".join(str(error).split("Exception encountered:")[-1].split())[:400]


def _from_zip(path: Path, architecture: Any, custom_objects: dict[str, Any], safe_mode: bool) -> keras.Model:
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))
        version = json.loads(archive.read("metadata.json"))["keras_version"]
        _allow(config, architecture, custom_objects, safe_mode)
        if not version.startswith("2."):
            return _by_keras(path, custom_objects, safe_mode)
        model = _made(config, custom_objects, safe_mode)
        with tempfile.TemporaryDirectory() as folder:
            archive.extract("model.weights.h5", folder)
            _fill_by_paths(model, Path(folder) / "model.weights.h5")
    return model


def _from_h5(path: Path, architecture: Any, custom_objects: dict[str, Any], safe_mode: bool) -> keras.Model:
    import h5py

    with h5py.File(path, "r") as file:
        if "model_config" not in file.attrs:
            return _filled(path, file, architecture)
        config = json.loads(file.attrs["model_config"])
        _allow(config, architecture, custom_objects, safe_mode)
        if _text(file.attrs.get("keras_version", "2")).startswith("3."):
            return _by_keras(path, custom_objects, safe_mode)
        if _text(file.attrs.get("backend", "tensorflow")) != "tensorflow":
            raise InputError("it was written on another backend than TensorFlow, where kernels are turned round.")
        model = _made(config, custom_objects, safe_mode)
        _fill_by_layers(model, file["model_weights"])
    return model


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _by_keras(path: Path, custom_objects: dict[str, Any], safe_mode: bool) -> keras.Model:
    try:
        return keras.models.load_model(path, custom_objects=custom_objects, compile=False, safe_mode=safe_mode)
    except (ValueError, TypeError, AttributeError, IndexError, ImportError) as error:
        raise InputError(f"Keras {keras.__version__} cannot read it. {_short(error)}") from error


def _made(config: dict[str, Any], custom_objects: dict[str, Any], safe_mode: bool) -> keras.Model:
    """The model of a configuration of Keras 2, with new weights."""
    try:
        with keras.saving.CustomObjectScope(custom_objects):
            model = keras.saving.deserialize_keras_object(modern(config), safe_mode=safe_mode)
    except InputError:
        raise
    except (ValueError, TypeError, AttributeError, IndexError, KeyError, ImportError) as error:
        raise InputError(f"Keras {keras.__version__} cannot make this model of Keras 2. {_short(error)}") from error
    return model


def _allow(config: Any, architecture: Any, custom_objects: dict[str, Any], safe_mode: bool) -> None:
    """Raise for what holds code, and for what Keras 3 does not have."""
    if architecture is not None:
        raise InputError("it holds a whole model; leave architecture out.")
    for found in _objects({key: value for key, value in config.items() if key != "compile_config"}):
        kind, inner = found["class_name"], found.get("config")
        name = found.get("name") or (inner.get("name", kind) if isinstance(inner, dict) else kind)
        if kind in ("Lambda", "__lambda__") and safe_mode:
            raise InputError(
                f"the Lambda layer '{name}' holds code of whoever wrote the file. If you trust it: safe_mode=False."
            )
        if kind in _OPERATIONS and kind not in custom_objects:
            raise InputError(
                f"the TensorFlow operation '{name}' is a layer, and Keras 3 has none such. Build the model without it, "
                "save the old one's weights alone, and load_model(weights, architecture=model)."
            )


def _objects(config: Any) -> Iterator[dict[str, Any]]:
    """Every object in a configuration, nested ones too."""
    if isinstance(config, dict) and isinstance(config.get("class_name"), str):
        yield config
    for value in config.values() if isinstance(config, dict) else config if isinstance(config, list) else ():
        yield from _objects(value)


# From the words of Keras 2 to those of Keras 3


def modern(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a layer or model of Keras 2, as `keras.saving.deserialize_keras_object` takes it.

    Args:
        config: with `class_name` and `config`, as in the attribute `model_config` of an `.h5` file.
    """
    kind, inner = config["class_name"], config["config"]
    told: dict[str, Any] = {"class_name": kind, "module": "keras.layers", "registered_name": None, "config": inner}
    told |= {key: config[key] for key in ("name", "inbound_nodes") if key in config}
    if kind == "Sequential":
        return {**told, "module": "keras", "config": _sequential(inner)}
    if kind in _MODELS:
        return {**told, "module": "keras", "class_name": "Model", "config": _functional(inner)}
    own = keras.saving.get_registered_object(kind)
    cls = own or getattr(layers, kind, None)
    if cls is None:
        raise InputError(
            f"the layer '{inner.get('name')}' is a {kind}, which Keras does not have; give it in custom_objects."
        )
    told |= {"module": None, "registered_name": kind} if own else {}
    return {**told, "config": _layer(cls, inner)}


def _sequential(inner: Any) -> dict[str, Any]:
    name, steps = ("sequential", inner) if isinstance(inner, list) else (inner["name"], inner["layers"])
    told = [modern(layer) for layer in steps if layer["class_name"] != "InputLayer"]
    shape = _input_shape(steps[0]) or (inner.get("build_input_shape") if isinstance(inner, dict) else None)
    if shape is not None:
        told.insert(0, modern({"class_name": "InputLayer", "config": {"batch_shape": shape, "name": f"{name}_input"}}))
    return {"name": name, "layers": told}


def _input_shape(layer: dict[str, Any]) -> Any:
    """Shape, with the batch, of what the first layer of a Sequential takes; None where the file does not say."""
    inner = layer["config"]
    if layer["class_name"] in _MODELS:
        return _input_shape((inner["layers"] if isinstance(inner, dict) else inner)[0])
    return inner.get("batch_input_shape") or inner.get("batch_shape")


def _functional(inner: dict[str, Any]) -> dict[str, Any]:
    calls = {layer["name"]: len(layer["inbound_nodes"]) for layer in inner["layers"]}
    models = {layer["name"] for layer in inner["layers"] if layer["class_name"] in _MODELS}
    links = [layer["inbound_nodes"] for layer in inner["layers"]]
    links += [inner["input_layers"], inner["output_layers"]]
    # Keras 2 counts the making of a nested model as its first call.
    late = {name for name, call in _links(links) if name in models and call >= calls[name]}
    told = [{**modern(layer), "inbound_nodes": _renumbered(layer["inbound_nodes"], late)} for layer in inner["layers"]]
    ends = {key: _renumbered(inner[key], late) for key in ("input_layers", "output_layers")}
    # A list of one would make a model that gives lists.
    single = {key: end[0] for key, end in ends.items() if isinstance(end, list) and len(end) == 1 and _is_link(end[0])}
    return {"name": inner["name"], "layers": told, **ends, **single}


def _is_link(value: Any) -> bool:
    """["layer", call, output, ...], as Keras 2 writes which output of which call of a layer is meant."""
    return isinstance(value, list) and len(value) >= 3 and [*map(type, value[:3])] == [str, int, int]


def _links(value: Any) -> Iterator[tuple[str, int]]:
    if _is_link(value):
        yield value[0], value[1]
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _links(part)


def _renumbered(value: Any, late: set[str]) -> Any:
    if isinstance(value, dict):
        return {key: _renumbered(part, late) for key, part in value.items()}
    if not isinstance(value, list):
        return value
    if _is_link(value):
        value = [value[0], value[1] - (value[0] in late), *value[2:]]
    return [_renumbered(part, late) for part in value]


def _layer(cls: Any, inner: dict[str, Any]) -> dict[str, Any]:
    if cls is layers.InputLayer:
        return {"batch_shape": inner.get("batch_input_shape") or inner["batch_shape"], "name": inner["name"]}
    if cls is layers.Lambda:
        return _lambda(inner)
    known = inspect.signature(cls.__init__).parameters
    told = {key: value for key, value in inner.items() if key in known or not _harmless(key, value)}
    if cls is layers.LeakyReLU and "alpha" in told:
        told["negative_slope"] = told.pop("alpha")
    if cls in (layers.GRU, layers.GRUCell):
        told.setdefault("reset_after", False)
    return {key: _argument(key, value) for key, value in told.items()}


def _argument(key: str, value: Any) -> Any:
    """One argument of a layer."""
    if key == "axis" and isinstance(value, list) and len(value) == 1:
        return value[0]
    if key == "cells":
        return [modern(cell) for cell in value]
    if isinstance(value, str):
        return hard_sigmoid if value == "hard_sigmoid" else value
    if not isinstance(value, dict):
        return value
    if value.get("type") == "ndarray":
        return value["value"]
    kind, inner = value.get("class_name", ""), value.get("config")
    if kind in _MODELS or (kind and hasattr(layers, kind)):  # of a wrapper such as TimeDistributed
        return modern(value)
    if not isinstance(inner, dict):
        return value
    if key == "dtype":
        return inner["name"]
    # TensorFlow's initializers took a dtype
    return {**value, "config": {name: part for name, part in inner.items() if name != "dtype"}}


@keras.saving.register_keras_serializable("keras_explain")
def hard_sigmoid(x: Any) -> Any:
    """Keras 2's: clip(0.2 x + 0.5, 0, 1). That of Keras 3 is clip(x / 6 + 0.5, 0, 1)."""
    return keras.ops.clip(0.2 * x + 0.5, 0, 1)


def _lambda(inner: dict[str, Any]) -> dict[str, Any]:
    function = inner["function"]
    if isinstance(function, list):
        code = dict(zip(("code", "defaults", "closure"), function, strict=True))
        function = {"class_name": "__lambda__", "config": code}
    return {"name": inner["name"], "function": function, "arguments": inner.get("arguments") or {}}


def _harmless(key: str, value: Any) -> bool:
    """Whether an argument that Keras 3 does not know can be left out."""
    separable = key in ("kernel_initializer", "kernel_regularizer", "kernel_constraint")  # has two others instead
    return separable or (key in _OBSOLETE and _OBSOLETE[key] in (None, value))


# Weights


def _fill_by_layers(model: keras.Model, group: h5py.Group) -> bool:
    """Give each tensor of an .h5 file of Keras 2 to the weight of its layer and kind, or of its place and kind.

    Names decide where both sides have the same: a file that was written with other layers frozen has another order.

    Returns:
        Whether names have decided.
    """
    stored, own = _stored(group), _variables(model)
    variables = [variable for layer in own for variable in own[layer]]
    named = stored.keys() == own.keys()
    if named:
        saved = [tensor for layer in own for tensor in _matched(stored[layer], own[layer])[0]]
    else:
        saved, named = _matched([tensor for tensors in stored.values() for tensor in tensors], variables)
    fits = [
        _same_kind(name, variable.name) and values.shape == tuple(variable.shape)
        for (name, values), variable in zip(saved, variables, strict=False)
    ]
    if len(saved) != len(variables) or not all(fits):
        wrong = fits.index(False) if False in fits else min(len(saved), len(variables))
        file = "nothing" if wrong >= len(saved) else f"{saved[wrong][0]} {saved[wrong][1].shape}"
        mine = "nothing" if wrong >= len(variables) else f"{variables[wrong].path} {tuple(variables[wrong].shape)}"
        raise InputError(
            f"it holds {len(saved)} weights for a model of {len(variables)}; at place {wrong + 1} stands {file}, where "
            f"the model has {mine}."
        )
    for (_, values), variable in zip(saved, variables, strict=True):
        variable.assign(values)
    for layer in model._flatten_layers():
        if isinstance(layer, layers.Normalization):
            layer.finalize_state()
    return named


_Tensor = tuple[str, np.ndarray]


def _matched(saved: list[_Tensor], variables: list[Any]) -> tuple[list[_Tensor], bool]:
    """The tensors in the order of the weights, where their short names are the same and tell them apart."""
    theirs, ours = [_short_name(name) for name, _ in saved], [_short_name(variable.path) for variable in variables]
    if sorted(theirs) != sorted(ours) or len(set(ours)) < len(ours):
        return saved, False
    return [saved[theirs.index(name)] for name in ours], True


def _short_name(path: str) -> str:
    """`conv1/kernel` of `resnet50/conv1/kernel:0`."""
    parts = path.split(":")[0].split("/")[-2:]
    return "/".join([*parts[:-1], _RENAMED.get(parts[-1], parts[-1])])


def _same_kind(name: str, kind: str) -> bool:
    """Whether `conv1_3/kernel_1:0` is a `kernel`."""
    own = name.split("/")[-1].split(":")[0]
    kind = _RENAMED.get(kind, kind)
    return any(_RENAMED.get(option, option) == kind for option in (own, re.sub(r"_\d+$", "", own)))


def _stored(group: h5py.Group) -> dict[str, list[_Tensor]]:
    """(name, values) of every tensor in an .h5 file of Keras 2, by layer, in the order of the file."""
    stored = {
        layer: [(name, np.asarray(group[layer][name])) for name in _names(group[layer], "weight_names")]
        for layer in _names(group, "layer_names")
    }
    return {layer: tensors for layer, tensors in stored.items() if tensors}


def _names(group: h5py.Group, attribute: str) -> list[str]:
    """A list of names in the attributes, where long lists stand in parts."""
    parts = [group.attrs[attribute]] if attribute in group.attrs else []
    while f"{attribute}{len(parts)}" in group.attrs:
        parts.append(group.attrs[f"{attribute}{len(parts)}"])
    return [_text(name) for part in parts for name in part]


def _variables(model: keras.Model) -> dict[str, list[Any]]:
    """The weights of a model by layer, in the order of the .h5 files of Keras 2: those that learn first."""
    variables = {
        layer.name: [v for v in [*layer.trainable_weights, *layer.non_trainable_weights] if not _is_seed(v.path)]
        for layer in model.layers
    }
    return {layer: own for layer, own in variables.items() if own}


def _is_seed(path: str) -> bool:
    """Whether a path is of the state of a random generator, which Keras 2 did not keep."""
    return "seed_generator" in re.split(r"[/]", path.replace("seed_generator_state", "seed_generator"))


def _fill_by_paths(model: keras.Model, path: Path) -> None:
    """Let Keras read a `.weights.h5` file, and see that it has used all of it for all of the model."""
    import h5py

    before = model.get_weights()
    try:
        model.load_weights(path)
    except (ValueError, TypeError) as error:
        model.set_weights(before)  # some may have been filled
        raise InputError(f"its weights do not fit the model. {_short(error)}") from error
    saved: list[bytes] = []
    with h5py.File(path, "r") as file:

        def keep(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset) and not name.startswith(("optimizer", "metrics")) and not _is_seed(name):
                saved.append(np.asarray(item).tobytes())

        file.visititems(keep)
    own = [np.asarray(variable.numpy()).tobytes() for variable in model.weights if not _is_seed(variable.path)]
    if sorted(saved) != sorted(own):
        used = len(set(own) & set(saved))
        model.set_weights(before)
        raise InputError(f"it holds {len(saved)} weights, of which {used} have a place among the model's {len(own)}.")


def _filled(path: Path, file: h5py.File, architecture: Any) -> keras.Model:
    """A given or named model with the weights of a file that holds nothing else."""
    group = file.get("model_weights", file)
    old = "layer_names" in group.attrs or "layer_names0" in group.attrs
    if not old and "layers" not in file:
        raise InputError("it is an HDF5 file, and holds neither a model of Keras nor its weights.")
    if architecture is None:
        raise InputError(
            "it holds weights without the model that they belong to. Give that in architecture: a keras.Model, or the "
            f"name {' or '.join(map(repr, _ARCHITECTURES))}."
        )
    if isinstance(architecture, str):
        if architecture not in _ARCHITECTURES:
            raise InputError(
                f"architecture must be a keras.Model or one of {', '.join(_ARCHITECTURES)}; got {architecture!r}."
            )
        if not old:
            raise InputError(f"it was not written by Keras 2; {architecture!r} is a model of Keras 2.")
        classes = [v.shape[-1] for tensors in _stored(group).values() for _, v in tensors if v.ndim == 2]
        if not classes:
            raise InputError(f"it has no dense layer, so it is not {architecture!r} with its softmax.")
        architecture = _ARCHITECTURES[architecture](classes[-1])
    elif not isinstance(architecture, keras.Model):
        raise InputError(f"architecture must be a keras.Model or a name; got {type(architecture).__name__}.")
    if not architecture.weights:
        raise InputError("the architecture has no weights yet; build it first, by a call or an Input layer.")
    if old:
        if not _fill_by_layers(architecture, group):
            _warn_of_other_names(group, architecture)
    else:
        _fill_by_paths(architecture, path)
    return architecture


def _warn_of_other_names(group: h5py.Group, model: keras.Model) -> None:
    """Weights went by their place: where the names differ too, equal shapes may hide another order."""
    theirs = [_short_name(name) for tensors in _stored(group).values() for name, _ in tensors]
    ours = [_short_name(variable.path) for own in _variables(model).values() for variable in own]
    for file, own in zip(theirs, ours, strict=True):
        if re.sub(r"_\d+/", "/", file) != re.sub(r"_\d+/", "/", own):
            warnings.warn(
                f"The file's {file!r} fills {own!r}: compare a prediction with one of the old model.",
                ExplanationWarning,
                stacklevel=5,
            )
            return


def resnet50(classes: int, size: int = 299) -> keras.Model:
    """Keras 2's ResNet50 without its top as one layer, global average pooling and a softmax, from random weights.

    Args:
        classes: outputs of the softmax.
        size: side of the images (size, size, 3).

    Examples:
        >>> from keras_explain.model_files import resnet50
        >>> resnet50(5, size=64).layers[1].name
        'resnet50'

    References:
        He et al. 2016, Deep Residual Learning for Image Recognition.
    """
    image = keras.Input((size, size, 3))
    x = _normalised(layers.ZeroPadding2D(3, name="conv1_pad")(image), 64, 7, 2, "conv1", "bn_conv1")
    x = layers.ZeroPadding2D(1, name="pool1_pad")(layers.ReLU()(x))
    x = layers.MaxPooling2D(3, 2)(x)
    for stage, (filters, blocks) in enumerate(zip((64, 128, 256, 512), (3, 4, 6, 3), strict=True), start=2):
        for block in "abcdef"[:blocks]:
            stride = 2 if block == "a" and stage > 2 else 1
            x = _bottleneck(x, filters, stride, f"{stage}{block}", shortcut=block == "a")
    backbone = keras.Model(image, x, name="resnet50")
    image = keras.Input((size, size, 3))
    features = layers.GlobalAveragePooling2D()(backbone(image))
    return keras.Model(image, layers.Dense(classes, activation="softmax")(features))


def _bottleneck(x: Any, filters: int, stride: int, place: str, shortcut: bool) -> Any:
    def step(x: Any, filters: int, kernel: int, stride: int, branch: str) -> Any:
        return _normalised(x, filters, kernel, stride, f"res{place}_branch{branch}", f"bn{place}_branch{branch}")

    y = layers.ReLU()(step(x, filters, 1, stride, "2a"))
    y = layers.ReLU()(step(y, filters, 3, 1, "2b"))
    y = step(y, 4 * filters, 1, 1, "2c")
    return layers.ReLU()(layers.Add()([y, step(x, 4 * filters, 1, stride, "1") if shortcut else x]))


def _normalised(x: Any, filters: int, kernel: int, stride: int, name: str, norm: str) -> Any:
    padding = "same" if kernel == 3 else "valid"
    x = layers.Conv2D(filters, kernel, stride, padding, kernel_initializer="he_normal", name=name)(x)
    return layers.BatchNormalization(name=norm)(x)  # with its epsilon of 1e-3; that of keras.applications is 1.001e-5


_ARCHITECTURES = {"resnet50": resnet50}
