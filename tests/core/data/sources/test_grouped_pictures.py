"""Lists of Dollar Street, GeoDE and Google Landmarks as distributed: classes, groups, and what is of no use."""

import csv
from pathlib import Path

import numpy as np
import pytest

from diptych.core.data.ledger import ledger_of, visit
from diptych.core.data.records import Source
from diptych.core.data.sources.grouped_pictures import dollar_street, geode, landmarks
from tests.core.data.pictures import encoded

COLOURS = {"red": (220, 40, 40), "blue": (40, 70, 220)}


def write_list(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_picture(path: Path, colour: str = "red") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(np.full((12, 12, 3), COLOURS[colour], np.uint8)))


def street_row(name: str, income: str, classes: str, synonyms: str = "['stove, range']", region: str = "af") -> dict:
    return {
        "id": name,
        "country.name": "Malawi",
        "country.id": "mw",
        "region.id": region,
        "topics": "['Stoves']",
        "income": income,
        "imageRelPath": f"assets/{name}.jpg",
        "imagenet_synonyms": synonyms,
        "imagenet_sysnet_id": classes,
    }


@pytest.fixture
def street(tmp_path):
    train = [street_row("a", "36.5", "[827]"), street_row("b", "200", "[827, 859]", "['stove, range', 'toaster']")]
    test = [street_row("c", "1998.2", "[859]", "['toaster']", "eu"), street_row("d", "", "[]")]
    write_list(tmp_path / "images_v2_imagenet_train.csv", train)
    write_list(tmp_path / "images_v2_imagenet_test.csv", test)
    for name in "abc":
        write_picture(tmp_path / "assets" / f"{name}.jpg")
    return tmp_path


def test_dollar_street_has_classes_places_and_levels_of_income(street):
    source = dollar_street(street)
    assert isinstance(source, Source)
    assert source.class_names == ("stove", "toaster")
    assert [sorted(one.classes) for one in source.pictures] == [[0], [0, 1], [1]]
    assert [one.groups["income"] for one in source.pictures] == ["lowest quarter", "second quarter", "highest quarter"]
    assert [one.groups["region"] for one in source.pictures] == ["Africa", "Africa", "Europe"]
    assert source.place == "country"
    assert source.read(source.record(1).images[0]) == (street / "assets" / "b.jpg").read_bytes()
    assert ledger_of(source).left_out["label_missing"].names == ["assets/d.jpg"]


def test_dollar_street_takes_the_thousand_names(street):
    names = [f"class {number}" for number in range(1000)]
    source = dollar_street(street, class_names=names)
    assert [sorted(one.classes) for one in source.pictures] == [[827], [827, 859], [859]]
    assert source.class_names == tuple(names)
    with pytest.raises(ValueError, match="classes up to 859, and 10 are named"):
        dollar_street(street, class_names=names[:10])


def test_geode_has_objects_by_region(tmp_path):
    rows = [
        {"file_path": "1.jpg", "object": "cooking_pot", "region": "Africa", "ip_country": "Nigeria"},
        {"file_path": "x/2.jpg", "object": "bag", "region": "WestAsia", "ip_country": "Turkey"},
        {"file_path": "3.jpg", "object": "bag", "region": "Africa", "ip_country": "Ghana"},
    ]
    write_list(tmp_path / "index.csv", rows)
    for name in ("1.jpg", "x/2.jpg"):
        write_picture(tmp_path / "images" / name)
    source = geode(tmp_path)
    assert source.class_names == ("bag", "cooking pot")
    assert [(*one.classes, one.groups) for one in source.pictures[:2]] == [
        (1, {"region": "Africa", "country": "Nigeria"}),
        (0, {"region": "WestAsia", "country": "Turkey"}),
    ]
    read = [index for index, _ in visit(source, lambda record: source.read(record.images[0]), range(3), skipped=[])]
    assert read == [0, 1]


def test_landmarks_are_named_by_most_of_their_pictures(tmp_path):
    write_list(
        tmp_path / "retrieval_solution_v2.1.csv",
        [
            {"id": "abc1", "images": "i1 i2 i3", "Usage": "Public"},
            {"id": "bcd2", "images": "i9", "Usage": "Private"},
            {"id": "cde3", "images": "None", "Usage": "Ignored"},
        ],
    )
    shown = [{"id": name, "landmark_id": landmark} for name, landmark in (("i1", "7"), ("i2", "8"), ("i3", "8"))]
    write_list(tmp_path / "index_image_to_landmark.csv", shown)
    address = "http://commons.wikimedia.org/wiki/Category:Ch%C3%A2teau_de_Chambord"
    write_list(tmp_path / "index_label_to_category.csv", [{"landmark_id": "8", "category": address}])
    source = landmarks(tmp_path)
    assert source.class_names == ("Château de Chambord",)
    assert [(one.path, *one.classes) for one in source.pictures] == [("test/a/b/c/abc1.jpg", 0)]
    assert ledger_of(source).left_out["label_missing"].names == ["test/b/c/d/bcd2.jpg"]


def test_what_is_no_such_data_set_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*index.csv, where this data set has its list"):
        geode(tmp_path)
    (tmp_path / "index.csv").write_text("file,thing\n1.jpg,bag\n")
    with pytest.raises(ValueError, match="columns file, thing; missing are file_path, object, region, ip_country"):
        geode(tmp_path)
    (tmp_path / "index.csv").write_text("file_path,object,region,ip_country\n")
    with pytest.raises(ValueError, match="no picture of which its lists say what it shows"):
        geode(tmp_path)
    (tmp_path / "index.csv").write_text("file_path,object,region,ip_country\n" + "x" * 1_000_001)
    with pytest.raises(ValueError, match="line 2 is longer than 1,000,000 bytes"):
        geode(tmp_path)
    (tmp_path / "index.csv").write_text("file_path,object,region,ip_country\n" + "x" * 140_000 + ",a,b,c\n")
    with pytest.raises(ValueError, match=r"index.csv: line 2 is no line of such a list: field larger than"):
        geode(tmp_path)
