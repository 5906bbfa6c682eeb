"""Time the jobs of a round on the device that Keras runs on: `python -m benchmarks.devices`; see gpu.md.

Every job runs once to compile and is then timed. Its ratio is to the same number of compiled passes of the model alone,
in batches of the same size, measured in the same run.
"""

import argparse
import resource
import time
import warnings
from pathlib import Path

import keras
import numpy as np

import keras_explain as kx
from benchmarks import record

CLASSES = 5
NAMES = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}


def raw_passes(model, batch):
    """A compiled forward pass of a batch, and one with the gradient of a class; both wait for the result."""
    backend = keras.backend.backend()
    batch = keras.ops.convert_to_tensor(batch)
    if backend == "tensorflow":
        import tensorflow as tf

        @tf.function
        def gradient(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                total = tf.reduce_sum(model(x, training=False)[:, 0])
            return tape.gradient(total, x)

        forward = tf.function(lambda x: model(x, training=False))
        return (lambda: forward(batch).numpy()), (lambda: gradient(batch).numpy())
    if backend == "jax":
        import jax

        def logits(variables, x):
            return model.stateless_call(*variables, x, training=False)[0]

        forward = jax.jit(logits)
        gradient = jax.jit(jax.grad(lambda x, variables: logits(variables, x)[:, 0].sum()))
        variables = [[v.value for v in vs] for vs in (model.trainable_variables, model.non_trainable_variables)]
        return (
            lambda: forward(variables, batch).block_until_ready(),
            lambda: gradient(batch, variables).block_until_ready(),
        )
    import torch

    def gradient():
        x = batch.detach().requires_grad_()
        return torch.autograd.grad(model(x, training=False)[:, 0].sum(), x)[0].cpu()

    def forward():
        with torch.no_grad():
            return model(batch, training=False).cpu()

    return forward, gradient


def peak_memory():
    """GB of the device at most so far; of the process where the device is the CPU."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        stats = jax.local_devices()[0].memory_stats() or {}
        if "peak_bytes_in_use" in stats:
            return stats["peak_bytes_in_use"] / 1e9
    elif backend == "torch":
        import torch

        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated() / 1e9
    else:
        import tensorflow as tf

        if tf.config.list_physical_devices("GPU"):
            return tf.config.experimental.get_memory_info("GPU:0")["peak"] / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def device_name():
    """What the work is done on."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return jax.local_devices()[0].device_kind
    if backend == "torch":
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    return tf.config.experimental.get_device_details(gpus[0])["device_name"] if gpus else "cpu"


def seconds(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def jobs(scorer, images, background, samples):
    """Name, call, forward passes and gradient passes of every job."""
    n, m, t = len(images), len(background), CLASSES
    everything = kx.Samples(np.repeat(images, -(-t // n), axis=0)[:t], np.arange(t), background=background)
    shap, lime, integral = kx.GradientShap(background, samples), kx.Lime(5 * samples), kx.IntegratedGradients(64)
    six = ["vanilla", "guided", "rectified", integral, lime, shap]
    yield (
        f"gradient_shap, {n} images, {m} background, {t} classes, {samples} samples",
        lambda: kx.explain(scorer, images, shap, targets="all"),
        n + m,
        n * samples * t,
    )
    yield f"lime, 1 image, {lime.samples} samples", lambda: kx.explain(scorer, images[:1], lime, 0), lime.samples, 0
    yield "integrated_gradients, 1 image, 64 steps", lambda: kx.explain(scorer, images[:1], integral, 0), 2, 64
    yield (
        f"round, {t} classes, 6 methods",
        lambda: [kx.explain(scorer, everything, method) for method in six],
        t * lime.samples + 2 * t + 1 + m,
        t * (3 + 64 + samples),
    )


def halved(model, images, too_many):
    """Of chunks that do not fit into memory: how many images at once remained, and whether maps are those of few."""
    scorer = kx.Scorer(model, batch_size=too_many)
    many = kx.explain(scorer, np.resize(images, (too_many, *images.shape[1:])), "vanilla", 0).values
    few = kx.explain(kx.Scorer(model, batch_size=8), images, "vanilla", 0).values
    difference = np.abs(many - np.resize(few, many.shape)).max() / np.abs(few).max()
    return (
        f"Asked for {too_many} images at once, gradients came {scorer.batch_size} at a time after memory had run out; "
        f"their maps differ from those of 8 at a time by {difference:.1e} of the largest."
    )


def compare(path, scorer, images, background):
    """The largest difference from the maps of a file, as a share of each map's largest value; or write the file."""
    methods = {"vanilla": "vanilla", "integrated_gradients": kx.IntegratedGradients(64)}
    methods |= {"gradient_shap": kx.GradientShap(background, 50), "lime": kx.Lime(200), "grad_cam": "grad_cam"}
    maps = {name: kx.explain(scorer, images[:2], method, targets=0).values for name, method in methods.items()}
    if not path.exists():
        np.savez_compressed(path, **maps)
        return {}
    with np.load(path) as other:
        return {name: np.abs(own - other[name]).max() / np.abs(other[name]).max() for name, own in maps.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=299)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--background", type=int, default=50)
    parser.add_argument("--samples", type=int, default=200, help="of GradientShap; LIME takes five times as many")
    parser.add_argument("--batch", type=int, help="images at once; by default as the package chooses")
    parser.add_argument("--maps", type=Path, help="compare maps with those in this file; write it if there is none")
    parser.add_argument("--only-maps", action="store_true")
    parser.add_argument("--precision", help="mixed_bfloat16; by default the model's own")
    parser.add_argument("--too-many", type=int, help="images at once that memory does not hold, which are halved")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    shape = (options.size, options.size, 3)
    random = np.random.default_rng(0)
    model = keras.applications.ResNet50(weights=None, classes=CLASSES, input_shape=shape)
    for kernel in (variable for variable in model.trainable_variables if len(variable.shape) > 1):
        kernel.assign(random.normal(0, 1.4 / np.sqrt(np.prod(kernel.shape[:-1])), kernel.shape))
    images, background = (random.random((n, *shape), "float32") for n in (options.images, options.background))
    scorer = kx.Scorer(model, batch_size=options.batch, precision=options.precision)
    differences = compare(options.maps, scorer, images, background) if options.maps else {}
    if options.only_maps:
        print(differences)
        return
    batch = options.batch or 16
    forward, gradient = raw_passes(model, np.repeat(images, batch, axis=0)[:batch])
    forward(), gradient()
    per_forward, per_gradient = (min(seconds(call) for _ in range(3)) / batch for call in (forward, gradient))
    lines = [
        f"ResNet50 with random weights, {options.size} x {options.size} x 3. Raw compiled passes in "
        f"batches of {batch}: forward {1000 * per_forward:.2f} ms, gradient {1000 * per_gradient:.2f} ms an image.",
        "",
        "| job | passes | first run, s | seconds | ratio to raw passes | peak memory so far, GB |",
        "|---|---|---|---|---|---|",
    ]
    for name, call, forwards, gradients in jobs(scorer, images, background, options.samples):
        first, taken = seconds(call), seconds(call)
        raw = forwards * per_forward + gradients * per_gradient
        lines.append(
            f"| {name} | {forwards} forward, {gradients} gradient | {first:.2f} | {taken:.2f} | {taken / raw:.2f} "
            f"| {peak_memory():.1f} |"
        )
    lines += ["", "GradientShap's classes share forward passes, which the raw passes do not."]
    if differences:
        words = ", ".join(f"{name} {difference:.1e}" for name, difference in differences.items())
        lines += ["", f"Largest difference from the maps of `{options.maps.name}`, as a share of the largest: {words}."]
    if options.too_many:
        lines += ["", halved(model, images, options.too_many)]
    within = f" in {options.precision}" if options.precision else ""
    record(f"Devices, {NAMES[keras.backend.backend()]} on {device_name()}{within}", lines, device_name())


if __name__ == "__main__":
    main()
