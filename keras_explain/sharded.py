"""A whole data set explained shard by shard, in this process or on Ray; what is done is never done again."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_explain import metrics as quality
from keras_explain.batches import Batch, batches, batches_at, count
from keras_explain.engine import identity, versions
from keras_explain.errors import InputError, MissingExtra, check_counts
from keras_explain.explainers import Explainer, explain, named
from keras_explain.gradients import Scorer
from keras_explain.observer import untouched
from keras_explain.records import Attribution, Samples, load_maps, save_maps
from keras_explain.regions import region_of, regions_of

if TYPE_CHECKING:
    import pandas

_FIXED = ("model", "methods", "metrics", "targets", "shard_size", "seed", "images", "first_image", "maps")


class ExplainedDataset:
    """What `explain_dataset` wrote.

        dataset.json                what was asked, of which model
        index/000012.parquet        a row for each map: image, label, class, score, numbers, and where the map lies
        maps/000012/<method>.npz    the maps of a shard

    Args:
        folder: of it.

    Raises:
        InputError: the folder holds none.

    Examples:
        >>> import keras, numpy as np, keras_explain as kx
        >>> model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(2, "softmax")])
        >>> data = np.random.default_rng(0).random((5, 4, 4, 1)), np.arange(5) % 2
        >>> found = kx.explain_dataset(model, data, ["vanilla"], "all", shard_size=3)
        >>> found.shards, found.index.columns[:6].tolist()
        ([0, 1], ['position', 'id', 'label', 'method', 'target', 'shard'])
        >>> found.maps(1)[0].values.shape
        (2, 4, 4, 1)
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not (self.folder / "dataset.json").is_file():
            raise InputError(f"{folder} holds no dataset.json; give the folder that explain_dataset has written.")
        self.settings: dict[str, Any] = json.loads((self.folder / "dataset.json").read_text("utf-8"))

    def __repr__(self) -> str:
        return f"ExplainedDataset of {len(self.shards)} shards in {self.folder}"

    @property
    def shards(self) -> list[int]:
        """Numbers of the shards that are done."""
        return sorted(int(file.stem) for file in (self.folder / "index").glob("*.parquet"))

    @property
    def index(self) -> pandas.DataFrame:
        """A row for each map, in the order of the data."""
        import pandas
        from pyarrow import parquet

        files = [self.folder / "index" / f"{_name(k)}.parquet" for k in self.shards]
        tables = [parquet.read_table(file).to_pandas() for file in files]
        return pandas.concat(tables, ignore_index=True) if tables else pandas.DataFrame()

    def maps(self, shard: int) -> list[Attribution]:
        """The attributions of a shard, one a method; `index` tells in `row` which row is whose.

        Args:
            shard: its number.
        """
        folder = self.folder / "maps" / _name(shard)
        return load_maps(folder, json.loads((folder / "methods.json").read_text("utf-8")))


def explain_dataset(
    model: keras.Model | str | Path,
    data: Any,
    explainers: Sequence[str | Explainer],
    out: str | Path,
    *,
    engine: str = "local",
    targets: Any = None,
    metrics: Sequence[str | quality.Metric] = (),
    shard_size: int = 256,
    background: int = 50,
    seed: int = 0,
    output: str | None = None,
    precision: str | None = None,
    batch_size: int | None = None,
    workers: int = 1,
    gpus: float = 0.0,
    address: str | None = None,
    maps: bool = True,
    progress: bool | None = None,
) -> ExplainedDataset:
    """Explain every image of a data set, as many as there are, and write the maps in shards with an index.

    A shard is written whole or not at all, and is not done again by a second call: a job that was stopped, by whatever,
    goes on where it was. Its images are explained as `kx.explain` would. Memory holds one shard for each worker.

    Args:
        model: a Keras model or a file of one. Ray's workers load it once each.
        data: what `kx.select` takes. On Ray, arrays or a `PyDataset` such as `Stream`: others are read in order.
        explainers: names or objects.
        out: folder of the result; on Ray one that every worker reaches.
        engine: `"local"`, in this process, or `"ray"`, on Ray Data.
        targets: as in `kx.explain`; None is the predicted class of each image.
        metrics: measured of every map, into the index; none by default. Localization takes regions that the data tell.
        shard_size: images in a shard.
        background: images spread over the data for the expectation of GradientShap, where it has none.
        seed: of methods given by name.
        output, precision, batch_size: as in `kx.Scorer`.
        workers: on Ray, processes, each with one core.
        gpus: on Ray, share of a GPU for each worker, such as 0.25.
        address: of the Ray cluster; None starts one here, or takes that of this process.
        maps: False writes the index alone.
        progress: a line with the time left; None shows it on a terminal only.

    Returns:
        What lies in `out`.

    Raises:
        InputError: data, methods or an engine that cannot work, or `out` holds the result of another job; whatever a
            method raises. Shards that are done are kept.
        MissingExtra: ray is not installed, and asked for.

    Examples:
        >>> import keras, numpy as np, keras_explain as kx
        >>> model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(2, "softmax")])
        >>> data = np.random.default_rng(0).random((5, 4, 4, 1)), np.arange(5) % 2
        >>> found = kx.explain_dataset(model, data, ["vanilla"], "explained", shard_size=2, targets="all")
        >>> len(found.shards), len(found.index)
        (3, 10)
    """
    if engine not in ("local", "ray"):
        raise InputError(f"engine must be 'local' or 'ray'; got {engine!r}.")
    check_counts(1, shard_size=shard_size, workers=workers)
    check_counts(0, background=background)
    if isinstance(explainers, str) or not len(explainers):
        raise InputError(f"explainers must be a list of names or objects, at least one; got {explainers!r}.")
    if engine == "ray" and not _can_be_read_anywhere(data):
        raise InputError("On Ray the data must be arrays or a PyDataset: others can be read only from their beginning.")
    out = Path(out)
    live = model if isinstance(model, keras.Model) else _load(model)
    images = count(data)
    methods = named(explainers, seed)
    job = Job(
        str(out.resolve()),
        data,
        [name for name, _ in methods],
        [_with_background(explainer, data, images, background) for _, explainer in methods],
        [quality.resolve(metric) for metric in metrics],
        targets,
        shard_size,
        {"output": output, "precision": precision, "batch_size": batch_size},
        maps,
    )
    _check_job(out, _description(job, live, seed, images))
    done = ExplainedDataset(out).shards
    total = None if images is None else -(-images // shard_size)
    with _bar(total, len(done), progress) as bar:
        if engine == "ray":
            from keras_explain.on_ray import run

            left = [k for k in range(total or 0) if k not in set(done)]
            run(job, live, left, workers, gpus, address, bar.update)
        else:
            scorer = Scorer(live, **job.how)
            for k, batch in _shards(job, set(done)):
                job.write(scorer, k, batch)
                bar.update(1)
    return ExplainedDataset(out)


@dataclass
class Job:
    """All that is needed to explain a shard, in this process or another."""

    out: str
    data: Any
    names: list[str]
    explainers: list[Explainer]
    metrics: list[quality.Metric]
    targets: Any
    shard_size: int
    how: dict[str, Any]
    maps: bool

    def read(self, k: int) -> Batch:
        """The images of one shard."""
        positions = range(k * self.shard_size, (k + 1) * self.shard_size)
        return _joined([batch for _, batch in batches_at(self.data, positions)])

    def write(self, scorer: Scorer, k: int, batch: Batch) -> None:
        """Explain and write one shard: its maps, and when these are whole, its part of the index."""
        samples, attributions = self._explained(scorer, k, batch)
        if self.maps:
            self._write_maps(Path(self.out), k, attributions)
        self._write_index(Path(self.out) / "index", k, samples, attributions)

    def _write_maps(self, out: Path, k: int, attributions: Sequence[Attribution]) -> None:
        partial = Path(tempfile.mkdtemp(prefix=f".{_name(k)}.", dir=out / "maps"))
        methods = save_maps(partial, attributions)
        (partial / "methods.json").write_text(json.dumps(methods, default=str), "utf-8")
        place = out / "maps" / _name(k)
        shutil.rmtree(place, ignore_errors=True)  # of an attempt that ended before its index
        partial.chmod(0o755)
        partial.rename(place)

    def _explained(self, scorer: Scorer, k: int, batch: Batch) -> tuple[Samples, list[Attribution]]:
        images, labels, ids = batch
        first = k * self.shard_size
        names = [str(first + i) for i in range(len(images))] if ids is None else ids
        regions = regions_of(self.data) if self.metrics else None
        roi = (
            []
            if regions is None
            else [region_of(regions, n, first + i, images.shape[1:-1]) for i, n in enumerate(names)]
        )
        targets = self.targets
        if targets is None:
            with untouched(scorer.model):
                targets = scorer.logits(images).argmax(axis=1)[:, None]
        elif np.ndim(targets) == 2:
            targets = np.asarray(targets)[first : first + len(images)]
        samples = Samples(
            images, np.zeros(len(images), int), labels=_classes(labels), ids=tuple(names), roi=np.array(roi)
        )
        found = []
        for explainer in self.explainers:
            attribution = explain(scorer, samples, explainer, targets)
            if self.metrics:
                attribution = quality.measure(scorer, samples, attribution, self.metrics, explainer=explainer)
            found.append(attribution)
        return samples, found

    def _write_index(self, folder: Path, k: int, samples: Samples, attributions: Sequence[Attribution]) -> None:
        import pyarrow
        from pyarrow import parquet

        tables = []
        for name, attribution in zip(self.names, attributions, strict=True):
            rows = attribution.rows
            columns: dict[str, Any] = {
                "position": k * self.shard_size + rows,
                "id": [samples.ids[row] for row in rows],
                "label": samples.labels[rows],
                "method": [name] * len(rows),
                "target": attribution.targets,
                "shard": np.full(len(rows), k),
                "row": np.arange(len(rows)),
                "score": attribution.score,
                "base_score": attribution.base_score,
                "completeness_error": attribution.completeness_error,
            }
            columns |= {measure: row for measure, row in attribution.measures.items() if row.ndim == 1}
            tables.append(pyarrow.table(columns))
        table = pyarrow.concat_tables(tables, promote_options="default")
        partial = folder / f".{_name(k)}.{uuid.uuid4().hex}"
        parquet.write_table(table, partial)
        partial.replace(folder / f"{_name(k)}.parquet")


def _shards(job: Job, done: set[int]) -> Iterator[tuple[int, Batch]]:
    """The shards that are left; data that cannot be entered in the middle are read from their beginning."""
    if _can_be_read_anywhere(job.data):
        total = count(job.data) or 0
        yield from ((k, job.read(k)) for k in range(-(-total // job.shard_size)) if k not in done)
        return
    for k, batch in enumerate(_regrouped(batches(job.data, None), job.shard_size)):
        if k not in done:
            yield k, batch


def _regrouped(given: Iterable[Batch], size: int) -> Iterator[Batch]:
    """The same images in batches of one size."""
    kept: list[Batch] = []
    for images, labels, ids in given:
        start = 0
        while start < len(images):
            stop = min(len(images), start + size - sum(len(batch[0]) for batch in kept))
            kept.append((images[start:stop], labels[start:stop], None if ids is None else ids[start:stop]))
            start = stop
            if sum(len(batch[0]) for batch in kept) == size:
                yield _joined(kept)
                kept = []
    if kept:
        yield _joined(kept)


def _joined(given: Sequence[Batch]) -> Batch:
    images, labels, ids = zip(*given, strict=True)
    names = None if ids[0] is None else list(itertools.chain.from_iterable(ids))
    return np.concatenate(images), np.concatenate(labels), names


def _classes(labels: np.ndarray) -> np.ndarray:
    """One class an image: whole numbers as they are, one-hot as the place of the one, -1 for several at once."""
    if labels.ndim == 1 or labels.shape[1] == 1:
        return labels.reshape(len(labels)).astype("int64")
    return np.where((labels > 0.5).sum(axis=1) == 1, labels.argmax(axis=1), -1)


def _can_be_read_anywhere(data: Any) -> bool:
    return isinstance(data, (tuple, list, keras.utils.PyDataset)) and count(data) is not None


def _load(model: str | Path) -> keras.Model:
    from keras_explain.model_files import load_model

    return load_model(model)


def _with_background(explainer: Any, data: Any, images: int | None, wanted: int) -> Any:
    """GradientShap without a background gets one that is spread over the data."""
    if not hasattr(explainer, "background") or explainer.background is not None:
        return explainer
    if images is None or not wanted:
        raise InputError("GradientShap needs a background: pass kx.GradientShap(images), or data of known length.")
    positions = np.unique(np.linspace(0, images - 1, min(wanted, images)).round().astype(int)).tolist()
    found = np.concatenate([batch[0] for _, batch in batches_at(data, positions)])
    return dataclasses.replace(explainer, background=found)


def _description(job: Job, model: keras.Model, seed: int, images: int | None) -> dict[str, Any]:
    first = next(iter(batches(job.data, 1)))[0]
    return {
        "model": identity(model),
        "methods": dict(zip(job.names, map(_words, job.explainers), strict=True)),
        "metrics": list(map(repr, job.metrics)),
        "targets": np.asarray(job.targets).tolist() if job.targets is not None else None,
        "shard_size": job.shard_size,
        "seed": seed,
        "images": images,
        "maps": job.maps,
        "first_image": Samples(first[:1], np.zeros(1)).fingerprints[0],
        "versions": versions(),
        **job.how,
    }


def _words(explainer: Explainer) -> str:
    return repr(explainer) if dataclasses.is_dataclass(explainer) else type(explainer).__name__


def _check_job(out: Path, job: dict[str, Any]) -> None:
    """Write what is asked, or raise where something else lies already."""
    for name in ("index", "maps"):
        (out / name).mkdir(parents=True, exist_ok=True)
    file = out / "dataset.json"
    if file.is_file():
        before = ExplainedDataset(out).settings
        differ = [name for name in _FIXED if before.get(name) != json.loads(json.dumps(job[name]))]
        if differ:
            raise InputError(f"{out} holds the result of another job, which differs in {', '.join(differ)}.")
        return
    partial = out / f".dataset.{uuid.uuid4().hex}"
    partial.write_text(json.dumps(job, indent=1), "utf-8")
    partial.replace(file)


def _name(k: int) -> str:
    return f"{k:06d}"


def _bar(total: int | None, done: int, wanted: bool | None) -> Any:
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise MissingExtra("explain_dataset needs tqdm: pip install tqdm") from error

    class Bar(tqdm):
        monitor_interval = 0  # no watching thread

    return Bar(total=total, initial=done, unit="shard", disable=None if wanted is None else not wanted)
