"""The same truth on every backend and in every precision, and each backend left as it was found."""

import gc
import importlib.util
import json
import os
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import keras_explain as kx
from keras_explain import gradients
from keras_explain.callbacks import ExplanationCallback
from tests.conftest import BACKEND, small_cnn

ROOT = Path(__file__).parent.parent
X = np.random.default_rng(0).random((24, 12, 12, 2), "float32")
Y = np.arange(24) % 3
ROWS = kx.Lime(40, lambda image: np.arange(144).reshape(12, 12) // 24)
METHODS = [
    "vanilla",
    "guided",
    "rectified",
    kx.Saliency(smooth=5),
    kx.IntegratedGradients(16),
    kx.GradientShap(samples=16),
    ROWS,
    "grad_cam",
    "grad_cam_plus_plus",
    kx.Occlusion(4, 4),
    kx.Rise(60, 3),
]


def network():
    """A nested model with normalisation, of weights that are the same on every backend, and nothing random in it."""
    image = keras.Input((12, 12, 2))
    body = keras.Sequential(
        [
            keras.Input((12, 12, 2)),
            layers.Conv2D(6, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.Conv2D(8, 3, strides=2, padding="same"),
            layers.ReLU(max_value=6),
        ],
        name="body",
    )
    model = keras.Model(image, layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling2D()(body(image))))
    random = np.random.default_rng(7)
    for layer in (*body.layers, model.layers[-1]):
        for variable in layer.weights:
            spread = 0.3 if len(variable.shape) > 1 else 0.1
            around = 1.0 if variable.name in ("gamma", "moving_variance") else 0.0
            variable.assign(random.normal(around, spread, variable.shape))
    return model


def fixed_maps(folder):
    """Every method on the weights as they are."""
    targets = np.array([[0, 2], [1, 0]])
    samples = kx.Samples(X[:2], targets, background=X[2:8])
    kx.save_round(folder, samples, [kx.explain(network(), samples, method) for method in METHODS])


def trained_maps(folder):
    """Every method in training, as the callback finds them."""
    model = network()
    model.compile(keras.optimizers.SGD(0.05), "sparse_categorical_crossentropy")
    explain = ExplanationCallback(
        (X, Y), METHODS, frequency=2, background=6, tracker=kx.DirectoryTracker(folder), on_error="raise"
    )
    model.fit(X, Y, epochs=3, batch_size=8, shuffle=False, verbose=0, callbacks=[explain])


MADE = {"fixed": fixed_maps, "trained": trained_maps}


def rounds(folder):
    """The attributions of a folder, round by round."""
    return [kx.load_round(path.parent)[:2] for path in sorted(folder.rglob("settings.json"))]


@pytest.mark.skipif(BACKEND == "tensorflow", reason="the other backends are compared with TensorFlow")
@pytest.mark.parametrize("name", MADE)
def test_maps_agree_with_those_of_tensorflow(name, tmp_path):
    call = f"test_backends.MADE[{name!r}](Path({str(tmp_path / 'tf')!r}))"
    code = f"from pathlib import Path; from tests import test_backends; {call}"
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=environment)
    MADE[name](tmp_path / "own")
    pairs = list(zip(rounds(tmp_path / "own"), rounds(tmp_path / "tf"), strict=True))
    assert len(pairs) == {"fixed": 1, "trained": 2}[name]
    for (samples, found), (same, expected) in pairs:
        assert samples.ids == same.ids
        np.testing.assert_array_equal(samples.targets, same.targets)
        for one, other in zip(found, expected, strict=True):
            scale = np.abs(other.values).max()
            assert scale > 0, other.method
            np.testing.assert_allclose(one.values, other.values, rtol=0, atol=1e-4 * scale, err_msg=other.method)
            np.testing.assert_allclose(one.score, other.score, rtol=1e-4, atol=1e-5)


def test_a_callback_has_no_batch_hooks():
    """With one, Keras would wait for every batch on JAX and PyTorch."""
    hooks = [name for name in dir(keras.callbacks.Callback) if "batch" in name]
    assert len(hooks) >= 6
    assert all(getattr(ExplanationCallback, name) is getattr(keras.callbacks.Callback, name) for name in hooks)


GRADIENTS = ["vanilla", "guided", kx.IntegratedGradients(16), kx.GradientShap(X[2:8], 16), "grad_cam"]


def agreement(policy, factor, methods):
    """Cosines and ratios of lengths of the maps of a model in a precision and in float32.

    The model's logits are multiplied by a factor.
    """
    found = {}
    for name in ("float32", policy):
        keras.config.set_dtype_policy(name)
        try:
            model = network()
        finally:
            keras.config.set_dtype_policy("float32")
        kernel, bias = model.layers[-1].get_weights()
        model.layers[-1].set_weights([kernel * factor, bias])
        maps = [kx.explain(model, X[:2], method, targets=1).values.reshape(-1).astype("float64") for method in methods]
        found[name] = [(values, np.linalg.norm(values)) for values in maps]
    pairs = zip(found["float32"], found[policy], strict=True)
    return [(a @ b / (length_a * length_b), length_b / length_a) for (a, length_a), (b, length_b) in pairs]


@pytest.mark.parametrize(
    ("policy", "least", "factor"),
    [
        ("mixed_float16", 0.9995, 1.0),
        ("mixed_float16", 0.9995, 1e-5),
        ("mixed_float16", 0.9995, 3000.0),
        ("mixed_bfloat16", 0.99, 1.0),  # which has the range of float32
    ],
)
def test_maps_in_mixed_precision_point_where_those_in_float32_do(policy, least, factor):
    """At a factor of 1e-5 gradients in float16 would be lost without a scale, at 3000 infinite with a fixed one."""
    for method, (cosine, ratio) in zip(GRADIENTS, agreement(policy, factor, GRADIENTS), strict=True):
        assert cosine > least, method
        assert ratio == pytest.approx(1, abs=0.05), method


def test_float16_gradients_that_overflow_at_any_scale_above_one_are_found():
    """A float32 head of large weights, positive and negative: what overflows to -inf is not cut to 0 by Grad-CAM."""

    def build(dtype):
        image = keras.Input((12, 12, 2))
        body = layers.Conv2D(4, 3, activation="relu", dtype=dtype)(image)
        body = layers.Conv2D(4, 3, activation="softplus", dtype=dtype)(body)
        pooled = layers.GlobalAveragePooling2D(dtype=dtype)(body)
        return keras.Model(image, layers.Dense(3, activation="softmax")(pooled))

    whole, half = build("float32"), build("mixed_float16")
    random = np.random.default_rng(3)
    weights = [random.normal(0, 0.5, w.shape) for w in whole.get_weights()]
    weights[-2] = weights[-2] * 3e7
    for model in (whole, half):
        model.set_weights(weights)
    for method in ("vanilla", "grad_cam", "grad_cam_plus_plus", kx.IntegratedGradients(8)):
        expected, found = (kx.explain(model, X[:2], method, targets="all").values for model in (whole, half))
        assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max(), method
        assert np.abs(expected).max() > (0 if method == "grad_cam_plus_plus" else 65504), method


def test_logits_that_are_not_finite_are_no_scores():
    model = network()
    model.layers[-1].kernel.assign(np.full((8, 3), np.inf))
    with pytest.raises(kx.InputError, match="logits of the model are not finite"):
        kx.explain(model, X[:2], "vanilla", targets=0)


def test_passes_alone_agree_in_mixed_precision():
    for policy, least in (("mixed_float16", 0.999), ("mixed_bfloat16", 0.95)):
        for cosine, ratio in agreement(policy, 1.0, [kx.Occlusion(4, 4), ROWS]):
            assert cosine > least
            assert ratio == pytest.approx(1, abs=0.1)


def test_an_explanation_may_be_computed_in_16_bits():
    """Maps hardly change and the logits of the images not at all, and the model is left as it was."""
    model = network()
    policies = [layer.dtype_policy for layer in model._flatten_layers()]
    exact, coarse = kx.Scorer(model), kx.Scorer(model, precision="mixed_bfloat16")
    for method in (*GRADIENTS, ROWS):
        one, other = (kx.explain(scorer, X[:2], method, targets=1) for scorer in (exact, coarse))
        a, b = (found.values.reshape(-1).astype("float64") for found in (one, other))
        cosine = a @ b / np.sqrt((a @ a) * (b @ b))
        assert 0.99 < cosine < 1 - 1e-9, method
        if not np.isnan(one.base_score).any():
            np.testing.assert_array_equal(one.score, other.score)
    np.testing.assert_array_equal(exact.logits(X), coarse.logits(X))
    now = [layer.dtype_policy for layer in model._flatten_layers()]
    assert all(policy is before for policy, before in zip(now, policies, strict=True))
    with pytest.raises(kx.InputError, match="precision must be None or 'mixed_bfloat16'; got 'float16'"):
        kx.Scorer(model, precision="float16")


def test_the_layer_of_the_logits_keeps_its_precision():
    """Where all before it is exact in 16 bits, logits of perturbed images are those of float32."""
    stack = [keras.Input((12, 12, 2)), layers.Flatten(), layers.Dense(3, "softmax")]
    model = keras.Sequential(stack)
    images = np.random.default_rng(0).integers(0, 2, (2, 12, 12, 2)).astype("float32")
    rows = kx.Lime(40, ROWS.segmentation, hide=0.0)
    exact, coarse = (
        kx.explain(kx.Scorer(model, precision=precision), images, rows, targets=0).details["weights"]
        for precision in (None, "mixed_bfloat16")
    )
    np.testing.assert_allclose(exact, coarse, rtol=1e-4, atol=1e-5)


def test_which_layers_16_bits_are_for():
    """Not those that lead to another output, nor those of another policy; a constant image has nothing to hide."""
    images = np.random.default_rng(0).integers(0, 2, (2, 4, 4, 1)).astype("float32")
    rows = kx.Lime(20, lambda image: np.arange(16).reshape(4, 4) // 4, hide=0.0)
    for first, second in (("other", "one"), ("one", "other")):
        image = keras.Input((4, 4, 1))
        flat = layers.Flatten()(image)
        before = {"one": layers.Dense(4)(flat), "other": flat}  # exact in 16 bits is what only has zeros and ones
        heads = [layers.Dense(3, "softmax", name=name)(before[name]) for name in (first, second)]
        model = keras.Model(image, heads)
        for output, alike in (("other", True), ("one", False)):
            exact, coarse = (
                kx.explain(kx.Scorer(model, output, precision=precision), images, rows, targets=0).details["weights"]
                for precision in (None, "mixed_bfloat16")
            )
            assert np.allclose(exact, coarse, rtol=1e-4, atol=1e-5) == alike
    model = network()
    found = kx.explain(kx.Scorer(model, precision="mixed_bfloat16"), np.ones((1, 12, 12, 2)), kx.Occlusion(4, 4), 0)
    np.testing.assert_allclose(found.values, 0, atol=1e-5)
    keras.config.set_dtype_policy("mixed_float16")
    try:
        half = network()
    finally:
        keras.config.set_dtype_policy("float32")
    found = [kx.explain(kx.Scorer(half, precision=p), X[:1], "vanilla", 0).values for p in (None, "mixed_bfloat16")]
    np.testing.assert_array_equal(*found)


def test_a_seeded_round_gives_the_same_bits():
    model = network()
    samples = kx.Samples(X[:2], [0, 1], background=X[2:8])
    for method in METHODS:
        first, second = (kx.explain(model, samples, method).values for _ in range(2))
        np.testing.assert_array_equal(first, second)


@pytest.mark.skipif(BACKEND != "torch", reason="of PyTorch alone")
def test_pytorch_is_left_as_it_was():
    import torch

    model = network()
    model.train()
    model.layers[1].eval()
    modes = {name: module.training for name, module in model.named_modules()}
    hooks = [(len(m._forward_hooks), len(m._backward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    asking = [parameter.requires_grad for parameter in model.parameters()]
    first = next(parameter for parameter in model.parameters() if parameter.requires_grad)
    first.grad = torch.ones_like(first)
    state = torch.get_rng_state()
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y)), batch_size=8, shuffle=True
    )
    samples = kx.select(model, loader, background=2)
    for method in METHODS:
        kx.explain(model, samples, method)
    assert torch.equal(torch.get_rng_state(), state)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert hooks == [
        (len(m._forward_hooks), len(m._backward_hooks), len(m._forward_pre_hooks)) for m in model.modules()
    ]
    assert torch.equal(first.grad, torch.ones_like(first))
    assert all(parameter.grad is None for parameter in model.parameters() if parameter is not first)
    assert [parameter.requires_grad for parameter in model.parameters()] == asking
    assert torch.is_grad_enabled()


class Hungry(layers.Layer):
    """Runs out of memory with more than two images, and counts what earlier failures still hold."""

    def __init__(self):
        super().__init__()
        self.held, self.failed = [], []

    def compute_output_shape(self, shape):
        return shape

    def call(self, x):
        import torch

        self.held.append(sum(tensor() is not None for tensor in self.failed))
        large = x * 2  # what a layer has computed until then
        if len(x) > 2:
            self.failed.append(weakref.ref(large))
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return x


@pytest.mark.skipif(BACKEND != "torch", reason="of PyTorch alone")
def test_memory_that_ran_out_is_free_for_the_next_try():
    """Keras gives errors new words, in frames that hold the error, which holds them."""
    model = keras.Sequential([keras.Input((8, 8, 1)), hungry := Hungry(), layers.Flatten(), layers.Dense(2)])
    scorer = kx.Scorer(model, batch_size=16)
    kx.explain(scorer, np.ones((16, 8, 8, 1), "float32"), "vanilla", targets=0)
    assert (len(hungry.failed), scorer.batch_size) == (3, 2)
    assert not any(hungry.held)


class Watched(layers.Layer):
    """Knows of what it has computed, and of what the graph keeps of that, how much is still held."""

    def __init__(self):
        super().__init__()
        self.computed, self.most = [], 0

    def compute_output_shape(self, shape):
        return shape

    def call(self, x):
        self.most = max(self.most, sum(tensor() is not None for tensor in self.computed))
        y = keras.ops.exp(x)
        self.computed.append(weakref.ref(y))
        return y


@pytest.mark.skipif(BACKEND != "torch", reason="of PyTorch alone")
def test_eager_passes_leave_little_behind(monkeypatch):
    """Keras leaves what a layer adds up in circles of Python objects."""
    images, image = np.ones((64, 8, 8, 1), "float32"), keras.Input((8, 8, 1))
    both = layers.Add()([image, (watched := Watched())(image)])
    model = keras.Model(image, layers.Dense(2)(layers.Flatten()(both)))
    scorer = kx.Scorer(model, batch_size=4)
    kx.explain(scorer, images[:4], "vanilla", targets=0)
    gc.collect()
    gc.disable()
    try:
        watched.most = 0
        kx.explain(scorer, images, "vanilla", targets=0)
        assert watched.most == 15  # so small that there is room for all
        gc.collect()
        monkeypatch.setattr(gradients, "_CHUNK_MEMORY", 4 * scorer._point)
        watched.most = 0
        kx.explain(scorer, images, "vanilla", targets=0)
        assert watched.most == 2
    finally:
        gc.enable()


@pytest.mark.skipif(BACKEND != "torch", reason="of PyTorch alone")
def test_the_graph_is_freed_by_its_last_use():
    import torch

    held = []
    x, weight = torch.ones(2, 3), torch.ones(2)

    def function(at):
        held.append((at.exp() ** 2).sum(1, keepdim=True) * torch.arange(1.0, 3.0))
        return held[-1], ()

    backend = gradients.backend()
    _, _, found = backend.gradients(function, x, weight)
    np.testing.assert_allclose(found, 2 * np.exp(2.0) * np.array([1, 2])[:, None, None] * np.ones((2, 2, 3)), rtol=1e-6)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        held[-1].sum().backward()


@pytest.mark.skipif(BACKEND != "torch", reason="of PyTorch alone")
def test_memory_that_ran_out_is_free_for_training(tmp_path):
    hungry = Hungry()

    class Greedy:
        method = "greedy"

        def explain(self, scorer, samples):
            return hungry(keras.ops.ones((3, 8, 8, 1)))

    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(2, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    x, y = np.random.default_rng(0).random((8, 8, 8, 1), "float32"), np.arange(8) % 2
    explain = ExplanationCallback((x, y), [Greedy()], frequency=1, metrics=[], tracker=kx.DirectoryTracker(tmp_path))
    left = []
    look = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: left.append(hungry.failed[0]()))
    with pytest.warns(kx.ExplanationWarning, match="greedy failed"):
        model.fit(x, y, validation_data=(x, y), verbose=0, callbacks=[explain, look])
    assert left == [None]


@pytest.mark.skipif(BACKEND != "torch", reason="of PyTorch alone")
def test_a_module_of_pytorch_in_the_model_keeps_its_mode():
    import torch

    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(288, 8), torch.nn.Dropout(0.5))
    image = keras.Input((12, 12, 2))
    inner = keras.layers.TorchModuleWrapper(module, output_shape=(None, 8))
    model = keras.Model(image, layers.Dense(3, activation="softmax")(inner(image)))
    model.train()
    first, second = (kx.explain(model, X[:2], "vanilla", targets=0).values for _ in range(2))
    np.testing.assert_array_equal(first, second)  # nothing is dropped
    assert module[2].training
    kernel = module[1].weight.detach().cpu().numpy()
    dense = model.layers[-1].get_weights()[0]
    np.testing.assert_allclose(first[0].ravel(), kernel.T @ dense[:, 0], rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(BACKEND != "jax", reason="of JAX alone")
def test_on_jax_chunks_are_filled_up_and_compiled_for_few_lengths():
    model = small_cnn()
    scorer = kx.Scorer(model)
    images = np.random.default_rng(0).random((16, 8, 8, 1), "float32")
    whole = kx.explain(scorer, images, "vanilla", targets=0)
    traces = scorer.traces
    for n in (1, 3, 5, 8, 9, 13):
        part = kx.explain(scorer, images[:n], "vanilla", targets=0)
        np.testing.assert_allclose(part.values, whole.values[:n], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(part.score, whole.score[:n], rtol=1e-5, atol=1e-6)
    # Chunks are of 8 and 16: one more trace of the gradient than for the 16 images.
    assert scorer.traces == traces + 1
    summed = kx.explain(scorer, images[:1], kx.IntegratedGradients(11), targets=0)
    alone = kx.explain(kx.Scorer(model, batch_size=1), images[:1], kx.IntegratedGradients(11), targets=0)
    np.testing.assert_allclose(summed.values, alone.values, rtol=1e-4, atol=1e-6)
    before = scorer.evaluations
    kx.explain(scorer, images[:3], "vanilla", targets=0)
    assert scorer.evaluations == before + 3  # not what chunks were filled up with


@pytest.mark.skipif(BACKEND != "jax", reason="of JAX alone")
def test_numbers_of_64_bits_on_jax():
    code = """
import jax, numpy as np, keras, keras_explain as kx
jax.config.update("jax_enable_x64", True)
layers = [keras.Input((4, 4, 1)), keras.layers.Conv2D(2, 3), keras.layers.Flatten(), keras.layers.Dense(2, "softmax")]
print(kx.explain(keras.Sequential(layers), np.ones((1, 4, 4, 1)), "grad_cam", targets=0).values.shape)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "(1, 4, 4, 1)" in done.stdout, done.stderr[-500:]


# JAX has numbers of 64 bits only where it is told so for the whole process.
@pytest.mark.parametrize("floatx", ["bfloat16"] if BACKEND == "jax" else ["float64", "bfloat16"])
def test_other_types_of_keras_own_numbers(floatx):
    before, policy = keras.config.floatx(), keras.config.dtype_policy()  # of which Keras makes one when it is asked
    keras.config.set_floatx(floatx)
    try:
        model = network()
        values = {method: kx.explain(model, X[:1], method, targets=0).values for method in ("vanilla", "grad_cam")}
    finally:
        keras.config.set_floatx(before)
        keras.config.set_dtype_policy(policy)
    for method, found in values.items():
        expected = kx.explain(network(), X[:1], method, targets=0).values
        cosine = (found * expected).sum() / np.linalg.norm(found) / np.linalg.norm(expected)
        assert cosine > (0.98 if floatx == "bfloat16" else 0.99999), method


def test_threads_with_models_of_their_own_leave_keras_as_it_was():
    call = keras.layers.Layer.__call__
    alone = [kx.explain(small_cnn(seed=k), np.ones((1, 8, 8, 1)), "grad_cam", targets=0).values for k in range(2)]
    with ThreadPoolExecutor(2) as pool:
        work = [(small_cnn(seed=k), np.ones((1, 8, 8, 1)), "grad_cam", 0) for k in (0, 1)]
        found = [done.result().values for done in [pool.submit(kx.explain, *args) for args in work for _ in range(4)]]
    assert keras.layers.Layer.__call__ is call
    for k, values in enumerate(found):
        np.testing.assert_allclose(values, alone[k // 4], rtol=1e-5, atol=1e-7)


def test_versions_name_the_backend():
    from keras_explain.engine import versions

    found = versions()
    assert found["backend"] == BACKEND
    assert found[BACKEND] == sys.modules[BACKEND].__version__
    json.dumps(found)


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="Keras' NumPy backend needs jax")
def test_a_backend_without_gradients_is_refused():
    code = "import keras, keras_explain as kx; kx.Scorer(keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)]))"
    environment = {**os.environ, "KERAS_BACKEND": "numpy"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert "InputError: Keras runs on 'numpy'; gradients need KERAS_BACKEND=tensorflow, jax or torch" in done.stderr
    assert gradients.backend().__name__.endswith(BACKEND)
