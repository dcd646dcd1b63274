"""Phrases and boxes from JSON in both layouts; of pickles plain values are read; errors name the reference."""

import json
import pickle
from pathlib import Path

import pytest

from diptych.core.data.sources.refcoco import Referral, read_original, read_references
from tests.core.data.pictures import encoded, pixels

REFERENCE = {
    "image": "COCO_train2014_000000000009.jpg",
    "size": [200, 100],
    "box": [20, 10, 50, 40],
    "split": "testA",
    "sentences": ["the man ", "red shirt"],
}
BOX = (0.1, 0.1, 0.5, 0.35)


def write(path: Path, content) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def original(folder: Path, **changes) -> tuple[Path, Path]:
    image = {"id": 9, "file_name": "COCO_train2014_000000000009.jpg", "width": 200, "height": 100}
    annotation = {"id": 77, "image_id": 9, "bbox": [20, 10, 50, 40], "category_id": 1}
    reference = {
        "ref_id": 1, "ann_id": 77, "image_id": 9, "split": "testA", "file_name": "COCO_train2014_000000000009_16.jpg",
        "sentences": [{"sent": "the man", "raw": "The man!", "tokens": ["the", "man"]}, {"raw": "red shirt"}],
    }  # fmt: skip
    instances = write(folder / "instances.json", {"images": [image], "annotations": [annotation]})
    return instances, write(folder / "refs.json", [reference | changes])


def test_a_phrase_has_its_image_box_and_split(tmp_path):
    found = read_references(write(tmp_path / "refs.json", [REFERENCE]), tmp_path / "images")
    image = tmp_path / "images" / "COCO_train2014_000000000009.jpg"
    assert [each.phrase for each in found] == ["the man", "red shirt"]
    assert all((each.image, each.split) == (image, "testA") for each in found)
    assert found[0].box == pytest.approx(BOX)
    wrapped = write(tmp_path / "wrapped.json", {"refs": [REFERENCE | {"bbox": REFERENCE["box"], "box": None}]})
    with pytest.raises(ValueError, match='finite numbers as "box"'):
        read_references(wrapped, tmp_path / "images")
    other = {name: value for name, value in REFERENCE.items() if name != "box"} | {"bbox": REFERENCE["box"]}
    assert read_references(write(tmp_path / "wrapped.json", {"refs": [other]}), tmp_path / "images") == found


def test_both_layouts_give_the_same(tmp_path):
    instances, references = original(tmp_path)
    plain = read_references(write(tmp_path / "plain.json", [REFERENCE]), tmp_path / "images")
    assert read_original(instances, references, tmp_path / "images") == plain


def test_ids_are_one_however_they_are_written(tmp_path):
    instances, references = original(tmp_path)
    as_now = read_original(instances, references, tmp_path)
    texts = json.loads(references.read_text())
    for reference in texts:
        reference |= {"image_id": str(reference["image_id"]), "ann_id": float(reference["ann_id"])}
    assert read_original(instances, write(tmp_path / "texts.json", texts), tmp_path) == as_now


def test_a_size_that_is_not_written_down_is_that_of_the_file(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(pixels(0, height=20, width=40)))
    reference = {"image": "a.png", "box": [10, 5, 20, 10], "split": "train", "sentences": ["x"]}
    path = write(tmp_path / "refs.json", [reference])
    assert read_references(path, tmp_path)[0].box == (0.25, 0.25, 0.75, 0.75)
    with pytest.raises(FileNotFoundError, match='write its "size"'):
        read_references(path, tmp_path / "elsewhere")


def test_what_hangs_over_the_edge_is_cut_off(tmp_path):
    path = write(tmp_path / "refs.json", [REFERENCE | {"box": [-10, 50, 300, 60]}])
    assert read_references(path, tmp_path)[0].box == (0.5, 0.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("train2014/COCO_train2014_000000581857.jpg", "581857"),
        ("val2017/000000581857.jpg", "581857"),
        ("COCO_val2014_000000581857.jpg", "581857"),
        ("photos/581857.jpg", "581857"),
        ("photos/my picture.jpg", "my picture"),
    ],
)
def test_an_image_has_one_key_under_all_its_names(name, key):
    assert Referral(Path(name), "x", BOX, "train").image_key == key


class Trap:
    """What a pickle can do when it is opened."""

    def __reduce__(self):
        return (pytest.fail, ("the pickle was opened",))


@pytest.mark.parametrize(("name", "protocol"), [("refs(unc).p", 0), ("refs(unc).p", 2), ("misnamed.json", 4)])
def test_a_pickle_of_more_than_values_is_not_opened_and_the_way_out_is_told(tmp_path, name, protocol):
    path = tmp_path / name
    path.write_bytes(pickle.dumps(Trap(), protocol=protocol))
    for read in (lambda: read_references(path, tmp_path), lambda: read_original(original(tmp_path)[0], path, tmp_path)):
        with pytest.raises(ValueError, match="is not opened"):
            read()
    with pytest.raises(ValueError, match="Convert it to JSON"):
        read_references(path, tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"box": [20, 10, 50]}, '4 finite numbers as "box"'),
        ({"box": [20, 10, "50", 40]}, '4 finite numbers as "box"'),
        ({"box": [20, 10, float("nan"), 40]}, '4 finite numbers as "box"'),
        ({"box": [300, 10, 50, 40]}, "nothing of it is inside"),
        ({"box": [20, 10, 0, 40]}, "nothing of it is inside"),
        ({"size": [0, 100]}, "an image of 0 x 100"),
        ({"split": "minival"}, "'minival', expected one of train"),
        ({"split": None}, 'needs a "split"'),
        ({"sentences": []}, 'needs "sentences"'),
        ({"sentences": ["  "]}, "a sentence that is no text"),
        ({"image": "../secret.jpg"}, "not a path below"),
        ({"image": "/secret.jpg"}, "not a path below"),
        ({"image": 5}, 'needs a "image"'),
    ],
)
def test_a_reference_that_is_of_no_use_is_named(tmp_path, change, words):
    path = write(tmp_path / "refs.json", [REFERENCE, REFERENCE | change])
    with pytest.raises(ValueError, match=words) as caught:
        read_references(path, tmp_path)
    assert "reference 1 of" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [("{", "is not JSON"), ("5", "list of references"), ("[]", "list of references"), ("[5]", "JSON objects"),
     ("{}", "list of references")],
)  # fmt: skip
def test_a_file_of_another_layout_is_refused(tmp_path, content, words):
    path = tmp_path / "refs.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=words):
        read_references(path, tmp_path)


def test_references_to_what_is_not_there_are_refused(tmp_path):
    instances, references = original(tmp_path, ann_id=78)
    with pytest.raises(ValueError, match="image 9 and annotation 78"):
        read_original(instances, references, tmp_path)
    with pytest.raises(ValueError, match="as COCO's annotations are"):
        read_original(references, references, tmp_path)
    with pytest.raises(FileNotFoundError):
        read_references(tmp_path / "nowhere.json", tmp_path)
