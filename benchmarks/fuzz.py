"""Damaged and hostile files for every reader: `python -m benchmarks.fuzz`.

Each case is a file that the reader knows, with some of its bytes changed, doubled, cut out or cut off. It must give an
answer or an `ExplainError`, write nothing beside, and run nothing.
"""

import argparse
import io
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np

import keras_explain as kx
from benchmarks import record
from keras_explain.errors import ExplainError

PICTURE = np.random.default_rng(0).integers(0, 255, (16, 16), "uint8")


def small_model():
    """A classifier of two classes for grey pictures of 16 x 16."""
    import keras

    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((16, 16, 1)), keras.layers.Flatten(), keras.layers.Dense(2, "softmax")])


def picture(kind):
    """The bytes of a small picture."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(PICTURE).save(stream, kind)
    return stream.getvalue()


def dicom(**tags):
    """The bytes of a small DICOM picture, with further entries in its header."""
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.2"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    found = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    found.Rows, found.Columns, found.SamplesPerPixel, found.PhotometricInterpretation = 16, 16, 1, "MONOCHROME2"
    found.BitsAllocated, found.BitsStored, found.HighBit, found.PixelRepresentation = 16, 12, 11, 0
    found.WindowCenter, found.WindowWidth = 128, 256
    found.PixelData = PICTURE.astype("uint16").tobytes()
    for name, value in tags.items():
        setattr(found, name, value)
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, found, enforce_file_format=True)
    return stream.getvalue()


def arrays():
    """The bytes of an npz of images and labels."""
    stream = io.BytesIO()
    np.savez(stream, images=np.stack([PICTURE] * 4), labels=np.arange(4) % 2)
    return stream.getvalue()


def one_round(folder):
    """A round on disk."""
    samples = kx.Samples(PICTURE[None, ..., None] / 255, [0], ids=["one"], class_names=["a", "b"])
    found = kx.Attribution("mine", np.ones((1, 16, 16, 1)), [0], [0], score=[1.0], base_score=[0.0])
    kx.save_round(folder, samples, [found], {"title": "epoch 1", "epoch": 0, "panels": ["0-a"]})


def spooled(folder):
    """A spool with one round."""
    from keras_explain.tracking.spool import Spool

    about = {"tracking_uri": "x", "run_id": None, "ours": True, "experiment_id": None, "experiment_name": None}
    spool = Spool.new(folder, {**about, "source": {}})
    one_round(folder / "made")
    spool.put(3, folder / "made", {"loss": 1.0})
    spool.release()


def records(path):
    """A TFRecord file of two tiles."""
    from keras_explain.datasets import ddsm

    ddsm.write_tfrecords(path, np.zeros((2, 299, 299), "uint8"), [0, 1], ["a", "b"])


def beside(name, make):
    """Makes one file from its bytes."""

    def write(folder):
        (folder / name).write_bytes(make())

    return write


def opened(name):
    """Reads data as the command does, all of their pictures."""
    from keras_explain.datasets.own import open_data

    def read(folder):
        data = open_data(folder / name, MODEL).data
        if isinstance(data, tuple):
            kx.select(MODEL, data, value_range=(-1e300, 1e300))
        else:
            for i in range(len(data)):
                data[i]

    return read


def read_tiles(folder):
    from keras_explain.datasets import ddsm

    for case in ddsm.tfrecords(folder / "tiles.tfrecords"):
        case.read()


def table(folder):
    for name in ("a", "b"):
        (folder / f"{name}.png").write_bytes(picture("PNG"))
    (folder / "table.csv").write_text("filename,label\na.png,one\nb.png,two\n")


def page(folder):
    """A page as a resumed training takes it over, from damaged bytes."""
    from keras_explain.report import Report

    report = Report("fuzzed", 2)
    report.take_over((folder / "page.html").read_text("utf-8", "replace"), before=9)
    report.page()


def written_page(folder):
    from keras_explain.report import write_report

    one_round(folder / "r")
    write_report(folder / "r", folder / "page.html")
    shutil.rmtree(folder / "r")


def spool_read(folder):
    from keras_explain.tracking.spool import Spool

    for spool in Spool.all(folder):
        spool.about  # noqa: B018
        spool.waiting()


def read_model(name):
    return lambda folder: kx.load_model(folder / name)


# What makes the file, which file is damaged, what reads it.
READERS = {
    "PNG": (beside("a.png", lambda: picture("PNG")), "a.png", lambda folder: _pixels(folder / "a.png")),
    "JPEG": (beside("a.jpg", lambda: picture("JPEG")), "a.jpg", lambda folder: _pixels(folder / "a.jpg")),
    "TIFF": (beside("a.tif", lambda: picture("TIFF")), "a.tif", lambda folder: _pixels(folder / "a.tif")),
    "DICOM": (beside("a.dcm", dicom), "a.dcm", lambda folder: _pixels(folder / "a.dcm")),
    "npz of images": (beside("a.npz", arrays), "a.npz", opened("a.npz")),
    "CSV table": (table, "table.csv", opened("table.csv")),
    "TFRecord": (lambda folder: records(folder / "tiles.tfrecords"), "tiles.tfrecords", read_tiles),
    "round: settings": (one_round, "settings.json", kx.load_round),
    "round: samples": (one_round, "samples.npz", kx.load_round),
    "round: maps": (one_round, "mine.npz", kx.load_round),
    "page": (written_page, "page.html", page),
    "spool: run": (spooled, "*/run.json", spool_read),
    "spool: numbers": (spooled, "*/*/numbers.json", spool_read),
    ".keras model": (lambda folder: MODEL.save(folder / "m.keras"), "m.keras", read_model("m.keras")),
    ".h5 model": (lambda folder: _save_h5(folder / "m.h5"), "m.h5", read_model("m.h5")),
}


def _pixels(path):
    from keras_explain.datasets.own import pixels

    return pixels(path)


def _save_h5(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        MODEL.save(path)


MODEL = small_model()
INSIDE = ", inside"
ARCHIVES = ("npz of images", "round: samples", "round: maps", ".keras model")
KINDS = [*READERS, *(name + INSIDE for name in ARCHIVES)]


def damaged(data, random):
    """Bytes with one or a few of the changes that files suffer, or that somebody makes on purpose."""
    data = bytearray(data)
    for _ in range(int(random.integers(1, 4))):
        if not data:
            break
        at = int(random.integers(len(data)))
        end = min(len(data), at + int(random.integers(1, 64)))
        kind = int(random.integers(6))
        if kind == 0:
            data[at] = int(random.integers(256))
        elif kind == 1:
            data[at] ^= 1 << int(random.integers(8))
        elif kind == 2:
            del data[at:end]
        elif kind == 3:
            data[at:at] = data[at:end]
        elif kind == 4:
            data[at:end] = bytes([0 if random.integers(2) else 255]) * (end - at)
        else:
            del data[at:]
    return bytes(data)


def damaged_inside(data, random):
    """A whole archive, one of whose files is damaged: its check sums are right."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w") as new:
        names = old.namelist()
        chosen = names[int(random.integers(len(names)))]
        for name in names:
            content = old.read(name)
            new.writestr(name, damaged(content, random) if name == chosen else content)
    return stream.getvalue()


def attempt(read, folder):
    """What came of reading: "answer", "clear error", or the traceback of something else."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read(folder)
    except ExplainError as error:
        return "clear error" if str(error) else "an error without words"
    except Exception:
        return traceback.format_exc()
    return "answer"


def cases(name, seed, count):
    """What came of so many damaged files of one kind: (seed, outcome) pairs."""
    make, target, read = READERS[name.removesuffix(INSIDE)]
    harm = damaged_inside if name.endswith(INSIDE) else damaged
    with tempfile.TemporaryDirectory() as whole:
        make(Path(whole))
        (file,) = Path(whole).glob(target)
        data, inside = file.read_bytes(), file.relative_to(whole)
        if (outcome := attempt(read, Path(whole))) != "answer":
            raise RuntimeError(f"What is not damaged cannot be read: {outcome}")
        for k in range(seed, seed + count):
            with tempfile.TemporaryDirectory() as folder:
                place = Path(folder) / "in"
                shutil.copytree(whole, place)
                (place / inside).write_bytes(harm(data, np.random.default_rng(k)))
                outcome = attempt(read, place)
                if sorted(path.name for path in Path(folder).iterdir()) != ["in"]:
                    outcome = "wrote a file outside"
                yield k, outcome


def _work(arguments):
    name, seed, count = arguments
    sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
    return name, list(cases(name, seed, count))


def main():
    """Fuzz every reader in a process of its own, and record what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=KINDS)
    options = parser.parse_args()
    names, begun = [options.only] if options.only else KINDS, time.perf_counter()
    lines = ["| file | damaged | read all the same | clear error | anything else |", "|---|---|---|---|---|"]
    with multiprocessing.get_context("spawn").Pool(os.cpu_count(), maxtasksperchild=1) as pool:
        jobs = [(name, pool.apply_async(_work, ((name, options.seed, options.count),))) for name in names]
        for name, job in jobs:
            try:
                _, outcomes = job.get(1200)
            except multiprocessing.TimeoutError:
                outcomes = [(options.seed, "the process died or hung")]
            known = Counter(outcome for _, outcome in outcomes)
            others = {seed: outcome for seed, outcome in outcomes if outcome not in ("answer", "clear error")}
            lines.append(f"| {name} | {len(outcomes)} | {known['answer']} | {known['clear error']} | {len(others)} |")
            for seed, outcome in list(others.items())[:3]:
                print(f"{name}, seed {seed}: {outcome}")
    lines += ["", f"{time.perf_counter() - begun:.0f} seconds. Nothing was written beside the files that were read."]
    if not options.only:
        record("Damaged files", lines)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
