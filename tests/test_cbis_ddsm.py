"""The official tables of CBIS-DDSM, and DICOM and JPEG files as its downloads lay them out."""

import csv
import io

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

import keras_explain as kx
from keras_explain import datasets
from keras_explain.datasets import cbis_ddsm
from keras_explain.datasets.files import read_image

MASS = (
    "patient_id,breast_density,left or right breast,image view,abnormality id,abnormality type,mass shape,mass margins,"
    "assessment,pathology,subtlety,image file path,cropped image file path,ROI mask file path"
)
CALC = MASS.replace("breast_density", "breast density").replace(
    "mass shape,mass margins", "calc type,calc distribution"
)


def test_the_official_tables_row_by_row(test_data):
    found = cbis_ddsm.findings(test_data / "cbis_csv")
    counts = {}
    for finding in found:
        key = (finding.kind, finding.part)
        rows, images, patients, pathology = counts.setdefault(key, ([], set(), set(), {}))
        rows.append(finding)
        images.add(finding.image)
        patients.add(finding.patient)
        pathology[finding.pathology] = pathology.get(finding.pathology, 0) + 1
    told = {
        key: (
            len(rows),
            len(images),
            len(patients),
            *(of[p] for p in ("MALIGNANT", "BENIGN", "BENIGN_WITHOUT_CALLBACK")),
        )
        for key, (rows, images, patients, of) in counts.items()
    }
    assert told == {
        ("mass", "train"): (1318, 1231, 691, 637, 577, 104),
        ("mass", "test"): (378, 361, 201, 147, 194, 37),
        ("calcification", "train"): (1546, 1227, 602, 544, 528, 474),
        ("calcification", "test"): (326, 284, 151, 129, 130, 67),
    }
    assert len({finding.id for finding in found}) == len(found)
    assert max(finding.number for finding in found) == 7
    assert sum(finding.subtlety == 0 for finding in found if finding.kind == "mass" and finding.part == "train") == 2
    (first,) = (f for f in found if f.id == "P_00001_LEFT_CC_mass_1")
    assert (first.density, first.assessment, first.label) == (3, 4, 4)
    assert first.about == ("IRREGULAR-ARCHITECTURAL_DISTORTION", "SPICULATED")
    assert first.image == "1.3.6.1.4.1.9590.100.1.2.342386194811267636608694132590482924515"
    assert first.crop == first.mask == "1.3.6.1.4.1.9590.100.1.2.296736403313792599626368780122205399650"
    apart = [f for f in found if f.mask != f.crop]  # masks in a series of their own
    assert len(apart) == 104
    assert {f.label for f in found if f.pathology == "BENIGN_WITHOUT_CALLBACK"} == {1, 2}


def dicom(path, pixels, series, **tags):
    """A DICOM file of 16 bits as scanners write them."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    made = pydicom.Dataset()
    made.file_meta = meta
    made.SOPClassUID, made.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    made.PatientID, made.SeriesInstanceUID, made.Modality = "P_00001", series, "MG"
    bits = 8 * pixels.dtype.itemsize
    made.Rows, made.Columns, made.SamplesPerPixel = *pixels.shape, 1
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = bits, bits, bits - 1, 0
    made.PhotometricInterpretation = "MONOCHROME2"
    for name, value in tags.items():
        setattr(made, name, value)
    made.PixelData = pixels.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(path, enforce_file_format=True)


def uid(number):
    return f"1.3.6.1.4.1.9590.100.1.2.{10**29 + number}"


HEIGHT, WIDTH = 120, 80


def mammogram(seed):
    pixels = np.random.default_rng(seed).integers(1000, 30000, (HEIGHT, WIDTH), "uint16")
    pixels[:, 60:] = 0
    return pixels


def disc(height, width, row, column, radius):
    y, x = np.mgrid[0:height, 0:width]
    return np.where(np.hypot(y - row, x - column) <= radius, 255, 0).astype("uint8")


def table(folder, name, head, rows):
    """A table with the line ends that the official ones have inside their last cells."""
    folder.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    (folder / name).write_text(head + "\n" + text.getvalue(), "utf-8")


def row(patient, view, number, kind, pathology, image, crop, mask):
    def path(series, suffix, file):
        return f"{kind.title()[:4]}-Training_{patient}_LEFT_{view}{suffix}/1.2.3/{series}/{file}"

    about = ["ROUND", "SPICULATED"] if kind == "mass" else ["PUNCTATE", "CLUSTERED"]
    paths = [
        path(image, "", "000000.dcm"),
        path(crop, f"_{number}", "000000.dcm"),
        path(mask, f"_{number}", "000001.dcm\n"),
    ]
    return [patient, 3, "LEFT", view, number, kind, *about, 4, pathology, 4, *paths]


def official(folder, flat=False):
    """Two mammograms of two patients, the first with a mass and a calcification, in the official layout.

    The mask of the second finding has half the measures of its mammogram; that of the third lies in the series where
    the table has the crop.
    """
    rows = [
        row("P_00001", "CC", 1, "mass", "MALIGNANT", uid(1), uid(11), uid(11)),
        row("P_00002", "MLO", 1, "mass", "BENIGN_WITHOUT_CALLBACK", uid(2), uid(31), uid(32)),
    ]
    table(folder, "mass_case_description_train_set.csv", MASS, rows)
    rows = [row("P_00001", "CC", 2, "calcification", "BENIGN", uid(1), uid(21), uid(21))]
    table(folder, "calc_case_description_test_set.csv", CALC, rows)
    files = {
        ("000000.dcm", uid(1)): mammogram(1),
        ("000000.dcm", uid(2)): mammogram(2),
        ("000000.dcm", uid(11)): mammogram(1)[20:50, 20:50],
        ("000001.dcm", uid(11)): disc(HEIGHT, WIDTH, 35, 30, 12),
        ("000001.dcm", uid(21)): mammogram(1)[70:90, 30:50],  # crop and mask exchanged
        ("000000.dcm", uid(21)): disc(HEIGHT // 2, WIDTH // 2, 40, 20, 4),
        ("000000.dcm", uid(31)): disc(HEIGHT, WIDTH, 60, 40, 5),
        ("000000.dcm", uid(32)): mammogram(2)[50:70, 30:50],
    }
    for (name, series), pixels in files.items():
        place = (
            folder / "CBIS-DDSM" / ("07-20-2016-DDSM" if flat else "case") / (f"1.0-{series[-3:]}" if flat else series)
        )
        dicom(place / name, pixels, series)


@pytest.mark.parametrize("flat", [False, True])  # folders named by the series, and by date and description
def test_whole_mammograms_with_all_their_findings(flat, tmp_path):
    official(tmp_path, flat)
    first, second = cbis_ddsm.mammograms(tmp_path)
    assert (first.id, first.label, first.group) == ("P_00001_LEFT_CC", 4, "P_00001")
    assert (second.id, second.label, second.group) == ("P_00002_LEFT_MLO", 2, "P_00002")
    np.testing.assert_array_equal(first.read(), mammogram(1))
    half = disc(HEIGHT // 2, WIDTH // 2, 40, 20, 4) > 0
    union = (disc(HEIGHT, WIDTH, 35, 30, 12) > 0) | half.repeat(2, 0).repeat(2, 1)
    np.testing.assert_array_equal(first.roi().mask(), union)
    np.testing.assert_array_equal(second.roi().mask(), disc(HEIGHT, WIDTH, 60, 40, 5) > 0)


def test_crops_carry_the_regions_along(tmp_path):
    official(tmp_path)
    cases = cbis_ddsm.crops(tmp_path, margin=0.5, smallest=30)
    assert [case.id for case in cases] == [
        "P_00001_LEFT_CC_calcification_2",
        "P_00001_LEFT_CC_mass_1",
        "P_00002_LEFT_MLO_mass_1",
    ]
    assert [case.label for case in cases] == [1, 4, 2]
    calcification, mass, _ = cases
    # The disc of radius 12 around (35, 30) is 25 wide: 50 with a margin of half of it on each side.
    np.testing.assert_array_equal(mass.read(), mammogram(1)[10:60, 5:55])
    whole = cbis_ddsm.mammograms(tmp_path)[0].roi().mask()
    np.testing.assert_array_equal(mass.roi().mask(), whole[10:60, 5:55])
    assert calcification.read().shape == (36, 36)
    y, x = np.argwhere(calcification.roi().mask()).mean(axis=0)
    assert y == pytest.approx(17.5, abs=1)
    assert x == pytest.approx(17.5, abs=1)
    assert cbis_ddsm.crops(tmp_path, margin=5)[1].read().shape == (WIDTH, WIDTH)  # square, and inside the mammogram
    assert [case.id for case in datasets.read(tmp_path, "test")] == ["P_00001_LEFT_CC_calcification_2"]
    # The first patient has a finding in each part, and is not trained on.
    assert [case.id for case in datasets.read(tmp_path, "train")] == ["P_00002_LEFT_MLO_mass_1"]


def test_overlapping_findings_are_all_in_a_crop(tmp_path):
    official(tmp_path)
    for series, name in ((uid(21), "000000.dcm"), (uid(11), "000001.dcm")):
        dicom(
            tmp_path / "CBIS-DDSM" / "case" / series / name,
            disc(HEIGHT, WIDTH, 40, 30 + (series == uid(21)) * 8, 6),
            series,
        )
    calcification, mass, _ = cbis_ddsm.crops(tmp_path, margin=1, smallest=20)
    both = (disc(HEIGHT, WIDTH, 40, 30, 6) > 0) | (disc(HEIGHT, WIDTH, 40, 38, 6) > 0)
    for case in (calcification, mass):
        assert case.roi().mask().sum() == pytest.approx(both.sum(), abs=12)


def test_the_nearest_of_several_masks_is_taken(tmp_path):
    official(tmp_path)
    small = disc(15, 10, 7, 5, 2)
    dicom(tmp_path / "CBIS-DDSM" / "case" / uid(31) / "000009.dcm", small, uid(31))
    np.testing.assert_array_equal(cbis_ddsm.mammograms(tmp_path)[1].roi().mask(), disc(HEIGHT, WIDTH, 60, 40, 5) > 0)


def test_mammograms_that_are_not_at_hand_are_left_out(tmp_path):
    official(tmp_path)
    for file in (tmp_path / "CBIS-DDSM" / "case" / uid(2)).iterdir():
        file.unlink()
    assert [case.id for case in cbis_ddsm.mammograms(tmp_path)] == ["P_00001_LEFT_CC"]
    for file in (tmp_path / "CBIS-DDSM" / "case" / uid(1)).iterdir():
        file.unlink()
    with pytest.raises(kx.InputError, match="holds none of the mammograms that its tables name"):
        cbis_ddsm.mammograms(tmp_path)


def test_the_jpeg_copy_with_its_own_table(tmp_path):
    official(tmp_path)
    jpeg = tmp_path / "copy" / "jpeg"
    rows = []
    for file in sorted((tmp_path / "CBIS-DDSM").rglob("*.dcm")):
        pixels = pydicom.dcmread(file).pixel_array
        eight = (pixels / 257).round().astype("uint8") if pixels.dtype == "uint16" else pixels
        target = jpeg / file.parent.name / f"1-{file.stem[-3:]}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(eight).save(target, quality=95)
        kind = "ROI mask images" if pixels.dtype == "uint8" else "cropped images"
        kind = "full mammogram images" if pixels.shape == (HEIGHT, WIDTH) and pixels.dtype == "uint16" else kind
        rows.append([str(target), f"CBIS-DDSM/jpeg/{target.parent.name}/{target.name}", "P_00001", kind])
        file.unlink()
    rows[-1][3] = ""  # the table lacks some descriptions
    for series, name, kind, pixels in (
        (uid(1), "0-000.jpg", "cropped images", mammogram(5)),  # before the mammogram by name
        (uid(31), "0-000.jpg", "cropped images", disc(HEIGHT, WIDTH, 20, 20, 9)),  # as black and white as a mask
    ):
        Image.fromarray((pixels / 257).astype("uint8") if pixels.dtype == "uint16" else pixels).save(
            jpeg / series / name
        )
        rows.append([name, f"CBIS-DDSM/jpeg/{series}/{name}", "P_00001", kind])
    for delimiter in (",", ";"):
        info = io.StringIO()
        csv.writer(info, delimiter=delimiter).writerows(
            [["file_path", "image_path", "PatientID", "SeriesDescription"], *rows]
        )
        (tmp_path / "copy" / "dicom_info.csv").write_text(info.getvalue())
        first, second = cbis_ddsm.mammograms(tmp_path)
        assert np.abs(first.read().astype(float) - mammogram(1) / 257).mean() < 3
        expected = disc(HEIGHT, WIDTH, 60, 40, 5) > 0
        found = second.roi().mask()
        assert (found & expected).sum() / (found | expected).sum() > 0.9
    (tmp_path / "copy" / "dicom_info.csv").write_text("file_path,PatientID\na,b\n")
    with pytest.raises(kx.InputError, match=r"dicom_info\.csv has no column image_path or SeriesDescription"):
        cbis_ddsm.mammograms(tmp_path)


def test_a_finding_without_a_mask_says_which(tmp_path):
    official(tmp_path)
    (tmp_path / "CBIS-DDSM" / "case" / uid(31) / "000000.dcm").unlink()
    _, second = cbis_ddsm.mammograms(tmp_path)
    with pytest.raises(kx.InputError, match="P_00002_LEFT_MLO_mass_1: none of 1 files of its series is a mask"):
        second.roi()


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({}, [0, 1000, 4000, 65535]),
        ({"BitsStored": 12, "HighBit": 11}, [0, 16004, 64015, 65535]),
        ({"PhotometricInterpretation": "MONOCHROME1"}, [65535, 64535, 61535, 0]),
        ({"WindowCenter": 2500.5, "WindowWidth": 3001}, [0, 0, 65535, 65535]),
        ({"WindowCenter": [2000.5, 9], "WindowWidth": [4001, 9]}, [0, 16384, 65535, 65535]),
        ({"WindowCenter": None, "WindowWidth": None}, [0, 1000, 4000, 65535]),
        ({"RescaleSlope": -1, "RescaleIntercept": 65535}, [65535, 64535, 61535, 0]),
        ({"RescaleSlope": 2, "RescaleIntercept": -9}, [0, 1000, 4000, 65535]),
        ({"WindowCenter": 2000, "WindowWidth": 1, "VOILUTFunction": "SIGMOID"}, [0, 0, 65535, 65535]),
        ({"WindowCenter": 2000}, [0, 1000, 4000, 65535]),
        ({"WindowCenter": 2000, "WindowWidth": 4000, "VOILUTFunction": "LINEAR_EXACT"}, [0, 16384, 65535, 65535]),
        (
            {"WindowCenter": 2000, "WindowWidth": 4000, "VOILUTFunction": "SIGMOID"},
            [65535 / (1 + np.exp(-4 * (x - 2000) / 4000)) for x in (0, 1000, 4000, 65535)],
        ),
        (
            {"WindowCenter": 2000.5, "WindowWidth": 4001, "RescaleSlope": 2, "RescaleIntercept": 0},
            [0, 32768, 65535, 65535],
        ),
        (
            {"WindowCenter": 2000.5, "WindowWidth": 4001, "PhotometricInterpretation": "MONOCHROME1"},
            [65535, 49151, 0, 0],
        ),
    ],
)
def test_bits_window_and_photometric_interpretation(tags, expected, tmp_path):
    pixels = np.array([[0, 1000], [4000, 65535]], "uint16")
    if "BitsStored" in tags:
        pixels[1, 1] = 4095
    dicom(tmp_path / "a.dcm", pixels, uid(1), **tags)
    np.testing.assert_allclose(read_image(tmp_path / "a.dcm").ravel(), expected, atol=1)


def test_signed_pixels(tmp_path):
    pixels = np.array([[-32768, 0], [1000, 32767]], "int16")
    dicom(tmp_path / "a.dcm", pixels, uid(1), PixelRepresentation=1)
    np.testing.assert_allclose(read_image(tmp_path / "a.dcm").ravel(), [0, 32768, 33768, 65535], atol=1)


def test_a_look_up_table_is_applied_after_the_modality(tmp_path):
    lut = pydicom.Dataset()
    lut.add_new("LUTDescriptor", "US", [4, 0, 8])
    lut.add_new("LUTData", "US", [255, 128, 64, 0])
    tags = {"VOILUTSequence": pydicom.Sequence([lut]), "WindowCenter": 1, "WindowWidth": 9}
    dicom(tmp_path / "a.dcm", np.array([[0, 1], [2, 3]], "uint16"), uid(1), **tags)
    np.testing.assert_allclose(read_image(tmp_path / "a.dcm").ravel(), [65535, 32896, 16448, 0], atol=1)
    tags |= {"RescaleSlope": 1, "RescaleIntercept": 1}
    dicom(tmp_path / "a.dcm", np.array([[0, 1], [2, 3]], "uint16"), uid(1), **tags)
    np.testing.assert_allclose(read_image(tmp_path / "a.dcm").ravel(), [32896, 16448, 0, 0], atol=1)


def test_files_that_are_none_say_so(tmp_path):
    (tmp_path / "a.dcm").write_bytes(b"not a picture")
    with pytest.raises(kx.InputError, match=r"a\.dcm is no DICOM picture that can be read"):
        read_image(tmp_path / "a.dcm")
    dicom(tmp_path / "b.dcm", mammogram(1), uid(1))
    whole = (tmp_path / "b.dcm").read_bytes()
    (tmp_path / "b.dcm").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(kx.InputError, match=r"b\.dcm is no DICOM picture"):
        read_image(tmp_path / "b.dcm")
    (tmp_path / "c.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(kx.InputError, match=r"c\.jpg is no picture that can be read"):
        read_image(tmp_path / "c.jpg")
    with pytest.raises(kx.InputError, match="does not exist"):
        read_image(tmp_path / "d.jpg")
    with pytest.raises(kx.InputError, match=r"holds none of the tables such as mass_case_description_train_set\.csv"):
        cbis_ddsm.findings(tmp_path)
    bad = row("P_00001", "CC", 1, "mass", "UNPROVEN", uid(1), uid(2), uid(3))
    table(tmp_path, "mass_case_description_test_set.csv", MASS, [bad])
    with pytest.raises(kx.InputError, match="row 0 has the pathology 'UNPROVEN'"):
        cbis_ddsm.findings(tmp_path)
    table(
        tmp_path,
        "calc_case_description_test_set.csv",
        MASS,
        [row("P_1", "CC", 1, "mass", "BENIGN", uid(1), uid(2), uid(3))],
    )
    with pytest.raises(kx.InputError, match="row 0 is of a mass; the table is of another kind of findings"):
        cbis_ddsm.findings(tmp_path / "calc_case_description_test_set.csv")
    (tmp_path / "mass_case_description_test_set.csv").write_bytes(MASS.encode() + b"\nP_1,\xe9\n")
    with pytest.raises(kx.InputError, match="is no text in UTF-8"):
        cbis_ddsm.findings(tmp_path / "mass_case_description_test_set.csv")
    (tmp_path / "mass_case_description_test_set.csv").write_text("patient_id,pathology\nP_1,BENIGN\n")
    with pytest.raises(kx.InputError, match="row 0 is no finding of CBIS-DDSM: KeyError"):
        cbis_ddsm.findings(tmp_path / "mass_case_description_test_set.csv")
    with pytest.raises(kx.InputError, match="part must be 'train', 'test' or None; got 'valid'"):
        cbis_ddsm.crops(tmp_path, "valid")
