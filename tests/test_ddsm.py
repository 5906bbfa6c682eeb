"""The DDSM tiles as they lie on disk, byte by byte, and the six tasks as a table."""

import struct
import warnings

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import keras_explain as kx
from keras_explain import datasets
from keras_explain.datasets import ddsm
from keras_explain.datasets.cases import Case, Stream, split
from keras_explain.datasets.files import read_image
from keras_explain.datasets.preprocessing import Preprocessing

SIDE = 299
NAMES = [
    "NORMAL",
    "Calc-Training_P_00005_RIGHT_CC_1",
    "Mass-Training_P_00001_LEFT_CC_1",
    "",
    "Mass-Training_P_00001_LEFT_MLO_2",
]


def tiles(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, SIDE, SIDE), "uint8")


def test_the_six_tasks_are_those_of_the_table():
    table = {  # data-set class -> model output; the third column of model_2 once went to the wrong output
        "model_0": {0: 0, 1: 1, 2: 2, 3: 3, 4: 4},
        "model_1": {0: 0, 1: 1, 2: 2, 3: 3, 4: 4},
        "model_2": {1: 0, 2: 1, 3: 2, 4: 3},
        "model_3": {0: 0, 1: 1, 2: 1, 3: 1, 4: 1},
        "model_4": {1: 0, 3: 1},
        "model_5": {2: 0, 4: 1},
    }
    names = ("normal", "benign calcification", "benign mass", "malignant calcification", "malignant mass")
    assert {name: dict(task.class_map) for name, task in ddsm.TASKS.items()} == table
    for name, task in ddsm.TASKS.items():
        assert len(task.class_names) == max(task.class_map.values()) + 1
        if name != "model_3":
            assert all(task.class_names[output] == names[label] for label, output in task.class_map.items())
    assert ddsm.TASKS["model_3"].class_names == ("normal", "finding")
    assert [name for name, task in ddsm.TASKS.items() if task.clean] == ["model_1"]
    with pytest.raises(kx.InputError, match="There is no task 'model_6'; known are model_0"):
        ddsm.task("model_6")


def raw_record(features):
    """A record as bytes, by the specification of protocol buffers: no library in between."""

    def varint(number):
        out = b""
        while number > 127:
            out, number = out + bytes([number & 127 | 128]), number >> 7
        return out + bytes([number])

    def field(number, payload):
        return varint(number << 3 | 2) + varint(len(payload)) + payload

    entries = b""
    for name, value in features.items():
        feature = field(1, field(1, value)) if isinstance(value, bytes) else field(3, field(1, varint(value)))
        entries += field(1, field(1, name.encode()) + field(2, feature))
    return field(1, entries)


def write_raw(path, records):
    with tf.io.TFRecordWriter(str(path)) as writer:  # for the check sums
        for record in records:
            writer.write(raw_record(record))


def test_tfrecords_are_read_byte_by_byte(tmp_path):
    pictures = tiles(5)
    names = [name.encode("utf-32-le") for name in NAMES]  # four bytes a letter
    for file, rows in (
        (tmp_path / "training10_0" / "training10_0.tfrecords", [0, 1]),
        (tmp_path / "training10_1.tfrecords", [2, 3, 4]),
    ):
        file.parent.mkdir(exist_ok=True)
        write_raw(
            file,
            [
                {"label": i, "label_normal": int(i > 0), "filename": names[i], "image": pictures[i].tobytes()}
                for i in rows
            ],
        )
    cases = ddsm.tfrecords(tmp_path)
    assert [case.id for case in cases] == [
        "training10_0/0",
        "training10_0/1",
        "training10_1/0",
        "training10_1/1",
        "training10_1/2",
    ]
    assert [case.label for case in cases] == [0, 1, 2, 3, 4]
    assert [case.group for case in cases] == ["", "P_00005", "P_00001", "", "P_00001"]
    for case, picture in reversed(list(zip(cases, pictures, strict=True))):
        np.testing.assert_array_equal(case.read(), picture)
    assert [c.label for c in datasets.read(tmp_path, "train", "model_4")] == [1, 3]


def test_the_writer_of_tfrecords_writes_what_the_reader_expects(tmp_path):
    pictures = tiles(5)
    ddsm.write_tfrecords(tmp_path / "a.tfrecords", pictures[..., None], range(5), NAMES)
    cases = ddsm.tfrecords(tmp_path / "a.tfrecords")
    assert [case.group for case in cases] == ["", "P_00005", "P_00001", "", "P_00001"]
    for case, picture in zip(cases, pictures, strict=True):
        np.testing.assert_array_equal(case.read(), picture)
    record = next(tf.data.TFRecordDataset(str(tmp_path / "a.tfrecords")).skip(2).as_numpy_iterator())
    kinds = {"label": tf.int64, "label_normal": tf.int64, "image": tf.string, "filename": tf.string}
    parsed = tf.io.parse_single_example(record, {name: tf.io.FixedLenFeature([], kind) for name, kind in kinds.items()})
    assert (int(parsed["label"]), int(parsed["label_normal"])) == (2, 1)
    np.testing.assert_array_equal(tf.io.decode_raw(parsed["image"], tf.uint8).numpy().reshape(SIDE, SIDE), pictures[2])
    assert np.frombuffer(parsed["filename"].numpy(), f"<U{len(max(NAMES, key=len))}")[0] == NAMES[2]


def test_tfrecords_that_are_damaged_or_of_another_kind_say_so(tmp_path):
    file = tmp_path / "training10_0.tfrecords"
    ddsm.write_tfrecords(file, tiles(3), [0, 1, 2])
    whole = file.read_bytes()
    length = struct.unpack("<Q", whole[:8])[0] + 16
    file.write_bytes(whole[: len(whole) - 7])
    with pytest.raises(kx.InputError, match=f"training10_0.tfrecords is cut off or damaged after {2 * length} bytes"):
        ddsm.tfrecords(file)
    flipped = bytearray(whole)
    flipped[length + 5000] ^= 1  # a pixel of the second record
    file.write_bytes(bytes(flipped))
    with pytest.raises(kx.InputError, match=f"damaged after {length} bytes"):
        ddsm.tfrecords(file)
    cases = [
        (
            {"label": b"mask", "image": b"x"},
            "has a picture as its label: it is of the data set's variant for segmentation",
        ),
        ({"image": b"x"}, r"holds \['image'\]; label, label_normal, image and filename are expected"),
        ({"label": 1, "image": b"x"}, "has 1 bytes of pixels; 299 x 299 are expected"),
        ({"label": 7, "image": bytes(SIDE**2)}, "has the class 7; 0 to 4 are expected"),
    ]
    for record, words in cases:
        write_raw(file, [record])
        with pytest.raises(kx.InputError, match="record 0 of .*training10_0.tfrecords " + words):
            ddsm.tfrecords(file)
    with tf.io.TFRecordWriter(str(file)) as writer:
        writer.write(b"\xff\xff\xff not a message")
    with pytest.raises(kx.InputError, match=r"is no tf\.train\.Example"):
        ddsm.tfrecords(file)
    with pytest.raises(kx.InputError, match=r"is no file or folder with \*\.tfrecords"):
        ddsm.tfrecords(tmp_path / "absent.tfrecords")


def test_both_halves_are_one_test_set(tmp_path):
    folder = tmp_path / "test"
    folder.mkdir()
    first, second = tiles(4, 1), tiles(3, 2)
    np.save(folder / "cv10_data.npy", first[..., None])
    np.save(folder / "cv10_labels.npy", np.array([0, 1, 3, 1]))
    ddsm.write_half(folder, "test10", second, [0, 2, 4], ["NORMAL", "Mass-Test_P_00016_LEFT_CC_1", ""])
    np.save(folder / "cv10_labels.npy", np.array([[0], [1], [3], [1]]))
    cases = datasets.read(tmp_path, "test", "model_0")  # at any depth
    assert [case.id for case in cases] == ["cv10/0", "cv10/1", "cv10/2", "cv10/3", "test10/0", "test10/1", "test10/2"]
    assert [case.label for case in cases] == [0, 1, 3, 1, 0, 2, 4]  # each half alone lacks classes
    assert cases[5].group == "P_00016"
    for case, tile in zip(cases, [*first, *second], strict=True):
        np.testing.assert_array_equal(case.read(), tile)


def test_halves_that_do_not_belong_together_or_hold_objects_are_refused(tmp_path):
    np.save(tmp_path / "cv10_data.npy", tiles(2)[..., None])
    with pytest.raises(kx.InputError, match=r"cv10_labels\.npy does not exist"):
        ddsm.halves(tmp_path)
    np.save(tmp_path / "cv10_labels.npy", np.array([0, 1, 2]))
    with pytest.raises(kx.InputError, match="cv10 has 2 images, 3 labels and 3 names"):
        ddsm.halves(tmp_path)
    np.save(tmp_path / "cv10_labels.npy", np.array([0, 1.5]))
    with pytest.raises(kx.InputError, match=r"cv10_labels\.npy, row 1 has the class 1\.5"):
        ddsm.halves(tmp_path)
    np.save(tmp_path / "cv10_labels.npy", np.eye(2))
    with pytest.raises(kx.InputError, match=r"cv10_labels\.npy, row 0 has the class"):
        ddsm.halves(tmp_path)
    np.save(tmp_path / "cv10_labels.npy", np.array([{"a": 1}, None], dtype=object))
    with pytest.raises(kx.InputError, match="is cut off, or holds Python objects, which are not read"):
        ddsm.halves(tmp_path)
    np.save(tmp_path / "cv10_data.npy", np.zeros((2, 100, 100, 1), "uint8"))
    np.save(tmp_path / "cv10_labels.npy", np.array([0, 1]))
    with pytest.raises(kx.InputError, match=r"shape \(2, 100, 100, 1\); uint8 \(n, 299, 299, 1\) is expected"):
        ddsm.halves(tmp_path)


def test_pictures_follow_their_table_and_not_its_y(tmp_path):
    pictures = tiles(5)
    ddsm.write_pictures(tmp_path / "images", tmp_path / "train_df_model_2.csv", pictures, range(5), "model_2")
    assert (tmp_path / "train_df_model_2.csv").read_text().splitlines() == [
        "index,id,class,filename,y",
        "1,c2,1,c2.png,0",
        "2,c3,2,c3.png,1",
        "3,c4,3,c4.png,2",
        "4,c5,4,c5.png,3",
    ]
    cases = datasets.read(tmp_path, "train", "model_2")
    assert [(case.id, case.label) for case in cases] == [("c2", 1), ("c3", 2), ("c4", 3), ("c5", 4)]
    for case, tile in zip(cases, pictures[1:], strict=True):
        np.testing.assert_array_equal(case.read(), tile)
    stream = Stream(cases, Preprocessing(), class_map=ddsm.task("model_2").class_map)
    images, labels = stream[0]
    assert labels.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(images, np.repeat(pictures[1:, ..., None], 3, axis=-1) / 255.0, atol=1e-7)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("3,c4,3,c4.png,0", r"line 2: class 3 has y=0; model_4 sends it to output 1"),  # the tables of models 4 and 5
        ("3,c4,2,c4.png,0", r"line 2 is of class 2, which is no part of model_4"),
        ("3,c4,9,c4.png,0", r"line 2 has the class 9; 0 to 4 are expected"),
        ("", "has no rows"),
    ],
)
def test_tables_that_contradict_themselves_are_refused(rows, words, tmp_path):
    table = tmp_path / "train_df_model_4.csv"
    table.write_text(f"index,id,class,filename,y\n{rows}\n")
    with pytest.raises(kx.InputError, match=words):
        ddsm.pictures(tmp_path, table, "model_4")


def png(path, pixels):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path)


def test_a_table_may_have_further_columns_and_lack_some(tmp_path):
    for name in ("c1", "c2"):
        png(tmp_path / f"{name}.png", tiles(1)[0])
    table = tmp_path / "ref.csv"
    table.write_bytes("\ufeffindex,id,class,mean_light\n0,c1,0,0.4\n1,c2,1.0,0.5\n".encode())
    assert [(case.id, case.label) for case in ddsm.pictures(tmp_path, table)] == [("c1", 0), ("c2", 1)]
    refused = [
        ("id,label\nc1,0\n", r"has the columns \['id', 'label'\]; class and filename are needed"),
        ("class,filename\n0,absent.png\n", r"line 2 names .*absent\.png, which does not exist"),
        ("class,filename\n0,../../etc/passwd\n", r"line 2 names .*images/passwd, which does not exist"),
        ("class,filename\nmass,c1.png\n", "line 2 has the class mass; 0 to 4 are expected"),
        ("class,filename\n,c1.png\n", "line 2 has the class ; 0 to 4 are expected"),
        ("id,class,filename\nc1\n", "line 2 has the class None; 0 to 4 are expected"),
    ]
    for text, words in refused:
        table.write_text(text)
        with pytest.raises(kx.InputError, match=words):
            ddsm.pictures(tmp_path / "images", table)
    table.write_bytes("class,filename\n0,c1.png\n".encode("utf-16"))
    with pytest.raises(kx.InputError, match="is no text in UTF-8"):
        ddsm.pictures(tmp_path, table)
    table.write_text("class,filename,y\n1,c1.png,0.5\n")
    with pytest.raises(kx.InputError, match=r"class 1 has y=0\.5; model_4 sends it to output 0"):
        ddsm.pictures(tmp_path, table, "model_4")


def test_pictures_of_8_16_and_32_bits_and_of_fractions(tmp_path):
    """Pillow would cut them all to 0..255."""
    sixteen = np.array([[0, 300], [40000, 65535]], "uint16")
    png(tmp_path / "a.png", sixteen)
    Image.fromarray(sixteen.astype("int32")).save(tmp_path / "b.tif")
    Image.fromarray((sixteen / 65535).astype("float32")).save(tmp_path / "c.tif")
    Image.fromarray(sixteen.astype("int32") * 7).save(tmp_path / "d.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), sixteen)
    assert read_image(tmp_path / "a.png").dtype == "uint16"
    Image.fromarray(sixteen.astype("int32")).save(tmp_path / "b.pgm")
    assert read_image(tmp_path / "b.pgm").dtype == "uint16"
    np.testing.assert_array_equal(read_image(tmp_path / "b.pgm"), sixteen)
    np.testing.assert_array_equal(read_image(tmp_path / "b.tif"), sixteen)
    with pytest.raises(kx.InputError, match="int32 in 0 to 65535 does not tell what is black and white"):
        Preprocessing((2, 2))(read_image(tmp_path / "b.tif"))  # whatever this one's own range is
    np.testing.assert_allclose(read_image(tmp_path / "c.tif"), sixteen / 65535, rtol=1e-6)
    with pytest.raises(kx.InputError, match="float32 in 0 to 1 does not tell what is black and white"):
        Preprocessing((2, 2))(read_image(tmp_path / "c.tif"))
    np.testing.assert_array_equal(read_image(tmp_path / "d.tif"), sixteen.astype("int32") * 7)
    Image.fromarray(np.array([[[0, 0, 255], [90, 90, 90]]], "uint8")).save(tmp_path / "e.png")
    assert read_image(tmp_path / "e.png").tolist() == [[29, 90]]  # as bright as the eye sees it
    (tmp_path / "f.png").write_bytes(b"no picture")
    with pytest.raises(kx.InputError, match=r"f\.png is no picture that can be read"):
        read_image(tmp_path / "f.png")


def test_clean_tasks_leave_out_tiles_without_tissue():
    """By mean, spread and number of the pixels that are not black, each at its threshold."""

    def flat(count, value, other=None):
        tile = np.zeros(SIDE**2, "uint8")
        tile[:count] = value
        if other is not None:
            tile[: count // 2] = other
        return tile.reshape(SIDE, SIDE)

    assert ddsm.shows_tissue(flat(60001, 120))
    assert not ddsm.shows_tissue(flat(60000, 120))
    assert ddsm.shows_tissue(flat(80000, 26))  # 26 / 255 = 0.102
    assert not ddsm.shows_tissue(flat(80000, 25))
    assert ddsm.shows_tissue(flat(80000, 50, 202))  # spread 0.298
    assert not ddsm.shows_tissue(flat(80000, 50, 204))  # 0.302
    assert not ddsm.shows_tissue(np.zeros((SIDE, SIDE), "uint8"))
    black, good = (Case(str(i), 0, lambda tile=tile: tile) for i, tile in enumerate((flat(0, 1), flat(70000, 99))))
    finding = Case("2", 3, black.read)
    assert ddsm.task("model_1").of([black, good, finding]) == [good, finding]
    assert ddsm.task("model_0").of([black, good, finding]) == [black, good, finding]


def test_no_patient_is_on_both_sides_and_unknown_ones_are_told():
    cases = [Case(f"{p}-{c}", 1 + p % 4, lambda: None, group=f"P_{p:05d}") for p in range(40) for c in range(3)]
    with warnings.catch_warnings(action="error"):
        train, held_out = split(cases)
    assert not {case.group for case in train} & {case.group for case in held_out}
    assert sorted(case.id for case in [*train, *held_out]) == sorted(case.id for case in cases)
    assert len(held_out) == 24
    assert np.bincount([case.label for case in held_out]).tolist() == [0, 6, 6, 6, 6]
    assert [case.id for case in split(cases)[1]] == [case.id for case in held_out]
    assert [case.id for case in split(cases, seed=1)[1]] != [case.id for case in held_out]
    for share in (0.1, 0.25, 0.4, 0.5):
        assert len(split(cases, share)[1]) == pytest.approx(120 * share, abs=6)
    unknown = [Case(f"c{i}", i % 5, lambda: None) for i in range(50)]
    with pytest.warns(kx.ExplanationWarning, match="40 cases with a finding do not tell whose they are"):
        split(unknown)
    for share in (0.04, 0.7):
        with pytest.raises(kx.InputError, match=f"share must be 0.1 to 0.5; got {share}"):
            split(cases, share)
    with pytest.raises(kx.InputError, match=r"share=0.2 needs 5 patients or lesions at least; got 2"):
        split(cases[:6])
    with pytest.raises(kx.InputError, match=r"share=0.5 cannot be held out of these 2 cases"):
        split([Case("a", 0, lambda: None, group="x"), Case("b", 1, lambda: None, group="y")], share=0.5)


def test_folders_that_hold_nothing_known_are_named(tmp_path):
    with pytest.raises(kx.InputError, match="is no folder"):
        datasets.read(tmp_path / "absent")
    with pytest.raises(kx.InputError, match=r"holds no train data that are known: train_df_model_0\.csv with images/"):
        datasets.read(tmp_path)
    with pytest.raises(kx.InputError, match="part must be 'train' or 'test'; got 'valid'"):
        datasets.read(tmp_path, "valid")
    Image.fromarray(tiles(1)[0]).save(tmp_path / "loose.png")
    with pytest.raises(kx.InputError, match="holds no test data that are known"):
        datasets.read(tmp_path, "test")
    (tmp_path / "train_df_model_4.csv").write_text("class,filename,y\n3,c1.png,0\n")
    with pytest.raises(kx.InputError, match="class 3 has y=0; model_4 sends it to output 1"):
        datasets.read(tmp_path, "train", "model_4")
