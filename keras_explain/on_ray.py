"""Shards on Ray Data: each worker loads the model once, and a worker that dies is replaced and its shard done again."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras

from keras_explain.errors import MissingExtra
from keras_explain.gradients import Scorer
from keras_explain.sharded import Job


class _Worker:
    """Lives in a process of its own."""

    def __init__(self, references: list[Any]):
        import ray

        job, model = ray.get(references)
        self.job: Job = job
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.keras"
            file.write_bytes(model)
            self.scorer = Scorer(keras.saving.load_model(file, compile=False), **self.job.how)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        for k in batch["item"]:
            self.job.write(self.scorer, int(k), self.job.read(int(k)))
        return batch


def run(
    job: Job,
    model: keras.Model,
    shards: Sequence[int],
    workers: int,
    gpus: float,
    address: str | None,
    advance: Callable[[int], Any],
) -> None:
    """Do shards on a Ray cluster.

    Args:
        job: whose data and explainers can be pickled.
        model: sent to every worker as a `.keras` file.
        shards: their numbers.
        workers: processes, each with one core.
        gpus: share of a GPU for each.
        address: of the cluster; None starts one here, or takes that of this process.
        advance: called with the number of shards that were done.

    Raises:
        MissingExtra: ray is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtra('Engine "ray" needs ray: pip install "keras-explain-callbacks[ray]"') from error
    if not shards:
        return
    ours = not ray.is_initialized()
    if ours:
        ray.init(address=address, log_to_driver=False, include_dashboard=False, logging_level=logging.WARNING)
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        items = ray.data.from_items(list(shards), override_num_blocks=len(shards))
        environment = {"KERAS_BACKEND": keras.backend.backend(), "TF_CPP_MIN_LOG_LEVEL": "2"}
        threads = {name: os.environ[name] for name in ("OMP_NUM_THREADS", "XLA_FLAGS") if name in os.environ}
        # Held here while workers may have to start again.
        references = [ray.put(job), ray.put(_file_of(model))]
        done = items.map_batches(
            _Worker,
            fn_constructor_args=(references,),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=1,
            num_gpus=gpus or None,
            runtime_env={"env_vars": {**environment, **threads}},
        )
        for _ in done.iter_rows():
            advance(1)
    finally:
        if ours:
            ray.shutdown()


def _file_of(model: keras.Model) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.keras"
        model.save(file)
        return file.read_bytes()
