"""The boxes of VinDr-Mammo and the outlines of INbreast, from files as those data sets have them."""

import plistlib

import numpy as np
import pytest

import keras_explain as kx
from keras_explain.datasets import inbreast, vindr
from keras_explain.datasets.roi import Box

HEAD = "study_id,series_id,image_id,laterality,view_position,height,width,breast_birads,breast_density,"
HEAD += "finding_categories,finding_birads,xmin,ymin,xmax,ymax,split\n"
ROWS = """s,r,a1,L,CC,100,80,BI-RADS 4,DENSITY C,"['Mass', 'Suspicious Calcification']",BI-RADS 4,10.2,20,30,40.5,
s1,r1,a1,L,CC,100,80,BI-RADS 4,DENSITY C,['Suspicious Lymph Node'],BI-RADS 3,50,60,70,80,training
s1,r2,a2,L,MLO,100,80,BI-RADS 1,DENSITY C,['No Finding'],,,,,,test
"""


def test_boxes_of_vindr(tmp_path):
    (tmp_path / "finding_annotations.csv").write_text(HEAD + ROWS)
    found = vindr.regions(tmp_path / "finding_annotations.csv")
    assert found["a1"].shapes == [Box(10.2, 20, 30, 40.5), Box(50, 60, 70, 80)]
    assert found["a1"].source == (100, 80)
    assert not found["a2"].mask().any()
    mask = found["a1"].mask()
    assert mask[20:40, 10:30].all()
    assert mask.sum() == pytest.approx(20 * 20 + 20 * 20, abs=20)
    mass = vindr.regions(tmp_path / "finding_annotations.csv", "Mass")
    assert mass["a1"].shapes == [Box(10.2, 20, 30, 40.5)]
    second = vindr.regions(tmp_path / "finding_annotations.csv", "Suspicious Calcification")  # named after another
    assert second["a1"].shapes == [Box(10.2, 20, 30, 40.5)]
    with pytest.raises(kx.InputError, match="has no finding of the category 'Asymmetry'"):
        vindr.regions(tmp_path / "finding_annotations.csv", "Asymmetry")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n", "has no column image_id, height"),
        (HEAD + ROWS.replace("10.2,20,30", "x,20,30"), "line 2: could not convert"),
        (HEAD + ROWS.replace("['Suspicious Lymph Node']", "__import__('os')"), "line 3: malformed node"),
        (HEAD + ROWS.replace("50,60,70,80", "50,60,50,80"), "line 3: A box needs left < right"),
    ],
)
def test_tables_of_vindr_that_are_none(text, words, tmp_path):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(kx.InputError, match=words):
        vindr.regions(tmp_path / "a.csv")
    with pytest.raises(kx.InputError, match=r"give the finding_annotations\.csv"):
        vindr.regions(tmp_path / "absent.csv")


def drawn(*rois):
    return {"Images": [{"NumberOfROIs": len(rois), "ROIs": [
        {"Name": name, "NumberOfPoints": len(points), "Point_px": [f"({x:.6f}, {y:.6f})" for x, y in points]}
        for name, points in rois
    ]}]}  # fmt: skip


def test_outlines_of_inbreast(tmp_path):
    square = [(10, 20), (30, 20), (30, 50), (10, 50)]  # x, which is the column, comes first
    content = drawn(("Mass", square), ("Calcification", [(60.7, 5.2)]), ("Cluster", [(40, 41), (42, 43)]))
    (tmp_path / "a.xml").write_bytes(plistlib.dumps(content))
    mask = inbreast.region(tmp_path / "a.xml", (64, 80)).mask()
    expected = np.zeros((64, 80), bool)
    expected[20:50, 10:30] = True
    expected[5, 60] = expected[41, 40] = expected[43, 42] = True
    np.testing.assert_array_equal(mask, expected)
    assert inbreast.region(tmp_path / "a.xml", (64, 80), {"Mass"}).mask().sum() == 600
    (tmp_path / "b.xml").write_bytes(plistlib.dumps(drawn(("Mass", [(10, 10), (40, 10), (10, 40)]))))
    assert inbreast.region(tmp_path / "b.xml", (64, 80)).mask().sum() == pytest.approx(450, rel=0.05)  # three points
    with pytest.raises(
        kx.InputError, match=r"has \['Calcification', 'Cluster', 'Mass'\], and none of \['Distortion'\]"
    ):
        inbreast.region(tmp_path / "a.xml", (64, 80), {"Distortion"})


def test_files_that_are_not_of_inbreast(tmp_path):
    for content in (
        b"<plist",
        b"<?xml version='1.0'?><a/>",
        plistlib.dumps({"Images": []}),
        plistlib.dumps(drawn(("Mass", [])) | {"Images": [{"ROIs": [{"Name": "Mass", "Point_px": ["(1; 2)"]}]}]}),
    ):
        (tmp_path / "a.xml").write_bytes(content)
        with pytest.raises(kx.InputError, match=r"a\.xml is no XML file of INbreast"):
            inbreast.region(tmp_path / "a.xml", (64, 80))
    with pytest.raises(kx.InputError, match="give an XML file of INbreast"):
        inbreast.region(tmp_path / "absent.xml", (64, 80))
