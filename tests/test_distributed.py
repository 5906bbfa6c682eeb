"""Several devices and several processes, really started: one writes, none hangs, and the maps are those of one."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import keras_explain as kx
from tests.conftest import BACKEND

ROOT = Path(__file__).parent.parent
COMMON = """
import os, sys, time
import numpy as np, keras
from keras import layers
import keras_explain as kx
from keras_explain.callbacks import ExplanationCallback

x, y = np.random.default_rng(0).random((64, 8, 8, 1), "float32"), np.arange(64) % 3

def made():
    keras.utils.set_random_seed(0)
    steps = [layers.Conv2D(6, 3, activation="relu"), layers.Flatten(), layers.Dense(3, activation="softmax")]
    model = keras.Sequential([keras.Input((8, 8, 1)), *steps])
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model

def explaining(folder):
    methods = ["vanilla", "guided", "integrated_gradients", kx.Lime(64, segments=8), "grad_cam"]
    return ExplanationCallback((x, y), methods, frequency=1, tracker=kx.DirectoryTracker(folder), on_error="raise")

def fit(model, callback):
    options = {"batch_size": 16, "epochs": 2, "shuffle": False, "validation_data": (x, y), "verbose": 0}
    return model.fit(x, y, callbacks=[callback], **options)
"""
SINGLE = "fit(made(), explaining(sys.argv[1]))"
MIRRORED = """
import tensorflow as tf
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope() as strategy:
    model = made()
assert model.distribute_strategy.num_replicas_in_sync == 2
fit(model, explaining(sys.argv[1]))
"""
TWO_CPUS = """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
"""
DATA_PARALLEL = """
devices = keras.distribution.list_devices("cpu")
assert len(devices) == 2
keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))
fit(made(), explaining(sys.argv[1]))
"""
DDP = """
import torch
torch.distributed.init_process_group("gloo")
rank = torch.distributed.get_rank()
model = made()
parallel = torch.nn.parallel.DistributedDataParallel(model)
optimizer = torch.optim.SGD(model.parameters(), 0.1)
callback = explaining(sys.argv[1])
callback.set_model(parallel)
callback.set_params({"epochs": 2, "verbose": 0})
callback.on_train_begin()
waited, round_took = 0.0, 0.0
for epoch in range(2):
    for start in range(0, 64, 16):
        half = slice(start + 8 * rank, start + 8 * rank + 8)
        begun = time.perf_counter()
        loss = torch.nn.functional.nll_loss(torch.log(parallel(torch.tensor(x[half]))), torch.tensor(y[half]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if epoch == 1 and start == 0:
            waited = time.perf_counter() - begun
    logs = {}
    begun = time.perf_counter()
    callback.on_epoch_end(epoch, logs)
    round_took = max(round_took, time.perf_counter() - begun)
callback.on_train_end()
numbers = sum(name.startswith("val_explain") for name in logs)
print("FOUND", rank, numbers, round_took, waited, float(sum(p.detach().abs().sum() for p in model.parameters())))
torch.distributed.destroy_process_group()
"""
WORKERS = """
import json
import tensorflow as tf
strategy = tf.distribute.MultiWorkerMirroredStrategy()
with strategy.scope():
    model = made()
callbacks = [explaining(sys.argv[1])] if sys.argv[2] == "with" else []
try:
    model.fit(x, y, batch_size=16, epochs=1, callbacks=callbacks, verbose=0)
except Exception as error:
    print("RAISED", type(error).__name__, str(error)[:60].replace(chr(10), " "))
"""


def start(code, *arguments, before="", **environment):
    command = [sys.executable, "-c", before + COMMON + code, *map(str, arguments)]
    known = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=known)


def ended(process, seconds=240):
    out, error = process.communicate(timeout=seconds)
    assert process.returncode == 0, error[-3000:]
    return out


def rounds(folder):
    return sorted((folder / "explanations").glob("epoch_*"))


def assert_same(folder, single):
    assert [place.name for place in rounds(folder)] == ["epoch_0000", "epoch_0001"] == [p.name for p in rounds(single)]
    for here, there in zip(rounds(folder), rounds(single), strict=True):
        samples, maps, _ = kx.load_round(here)
        expected, known, _ = kx.load_round(there)
        assert samples.ids == expected.ids
        assert len(maps) == 5
        for one, other in zip(maps, known, strict=True):
            np.testing.assert_allclose(one.values, other.values, atol=1e-4 * np.abs(other.values).max())


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """The rounds of one process on one device."""
    folder = tmp_path_factory.mktemp("single")
    ended(start(SINGLE, folder))
    return folder


@pytest.mark.skipif(BACKEND != "tensorflow", reason="of TensorFlow alone")
def test_a_mirrored_strategy_on_two_devices(tmp_path, single):
    ended(start(MIRRORED, tmp_path, before=TWO_CPUS))
    assert_same(tmp_path, single)


@pytest.mark.skipif(BACKEND != "jax", reason="of JAX alone")
def test_data_parallel_on_two_devices(tmp_path, single):
    ended(start(DATA_PARALLEL, tmp_path, XLA_FLAGS="--xla_force_host_platform_device_count=2"))
    assert_same(tmp_path, single)


@pytest.mark.skipif(BACKEND != "torch", reason="of PyTorch alone")
def test_two_processes_of_which_one_writes(tmp_path):
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    processes = [start(DDP, tmp_path / str(rank), RANK=str(rank), **group) for rank in range(2)]
    found = {}
    for process in processes:
        rank, *numbers = ended(process).split("FOUND")[1].split()[:5]
        found[int(rank)] = list(map(float, numbers))
    assert [place.name for place in rounds(tmp_path / "0")] == ["epoch_0000", "epoch_0001"]
    assert rounds(tmp_path / "1") == []
    (numbers, took, _, weights), (none, at_once, waited, same) = found[0], found[1]
    assert numbers > 10
    assert none == 0
    assert weights == pytest.approx(same)  # they still train together
    assert at_once < 0.1
    assert waited < took + 5  # for the round of the other, and no longer


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "tensorflow", reason="of TensorFlow alone")
def test_several_workers_fail_in_keras_itself_and_not_here(tmp_path):
    """Keras 3.15 cannot fit on several workers; the callback changes nothing of that."""
    found = {}
    for kind in ("without", "with"):
        ports = [free_port(), free_port()]
        cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
        tasks = [json.dumps({"cluster": cluster, "task": {"type": "worker", "index": i}}) for i in range(2)]
        processes = [start(WORKERS, tmp_path, kind, TF_CONFIG=task) for task in tasks]
        found[kind] = [process.communicate(timeout=240)[0] for process in processes]
    assert found["with"] == found["without"]
    assert "RAISED ValueError" in found["with"][0]
    assert not (tmp_path / "explanations").exists()
