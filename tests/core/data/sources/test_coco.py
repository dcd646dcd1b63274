"""COCO's and RefCOCO's layouts: what becomes a region, and what a reason to leave an image out."""

import json
import pickle

import pytest

from diptych.core.data.records import BadExample, Caption, Region, Source
from diptych.core.data.sources.coco import CocoRegionSource
from tests.core.data.pictures import encoded, pixels

IMAGES = [
    {"id": 7, "file_name": "a/one.jpg", "height": 100, "width": 200},
    {"id": 8, "file_name": "two.png", "height": 50, "width": 50},
]
CATEGORIES = [{"id": 1, "name": "dog"}, {"id": 2, "name": "traffic light"}]
GOOD = {
    "images": IMAGES,
    "categories": CATEGORIES,
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 2, "bbox": [20, 10, 100, 30], "iscrowd": 0},
        {"id": 2, "image_id": 7, "category_id": 1, "bbox": [-5.0, 90, 30, 20.5]},
        {"id": 3, "image_id": 7, "category_id": 1, "bbox": [0, 0, 200, 100], "iscrowd": 1},
        {"id": 4, "image_id": 7, "caption": "A dog at a light."},
        {"id": 5, "image_id": 99, "category_id": 1, "bbox": [0, 0, 1, 1]},
    ],
}


def write(folder, content, name="annotations.json"):
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def opened(folder, **changes) -> CocoRegionSource:
    return CocoRegionSource(write(folder, GOOD | changes), folder)


def problem(source: CocoRegionSource, index: int) -> str:
    with pytest.raises(BadExample) as caught:
        source.record(index)
    return caught.value.reason


def test_categories_become_regions_and_captions_captions(tmp_path):
    source = opened(tmp_path)
    assert isinstance(source, Source)
    assert len(source) == 2
    record = source.record(0)
    assert (record.key, record.images) == ("a/one", ("a/one.jpg",))
    assert record.captions == (Caption("A dog at a light."),)
    assert record.regions == (Region((0.1, 0.1, 0.4, 0.6), "traffic light"), Region((0.9, 0.0, 1.0, 0.125), "dog"))
    assert source.record(1).captions == source.record(1).regions == ()


def test_pictures_are_read_from_the_folder(tmp_path):
    (tmp_path / "two.png").write_bytes(encoded(pixels(0)))
    source = opened(tmp_path)
    assert source.read("two.png") == encoded(pixels(0))
    with pytest.raises(BadExample, match="image_missing"):
        source.read("a/one.jpg")


def test_several_files_add_up(tmp_path):
    captions = {"images": IMAGES, "annotations": [{"image_id": 8, "caption": "Nothing."}]}
    source = CocoRegionSource(
        [write(tmp_path, GOOD), write(tmp_path, captions, "captions.json")], tmp_path, language="en"
    )
    assert len(source) == 2
    assert source.record(1).captions == (Caption("Nothing.", "en"),)
    assert {region.language for region in source.record(0).regions} == {"en"}


def test_references_point_at_annotations_or_bring_their_box(tmp_path):
    references = [
        {"ann_id": 1, "sentences": [{"raw": "the light", "sent": "light"}, {"sent": "on the left"}, "red one"]},
        {"image_id": 8, "bbox": [0, 0, 25, 50], "sentences": ["left half"]},
    ]
    pointed = [{"id": 1, "image_id": 7, "bbox": [20, 10, 100, 30]}]
    source = opened(tmp_path, annotations=pointed, refs=references)
    box = (0.1, 0.1, 0.4, 0.6)
    assert [(region.text, region.box) for region in source.record(0).regions] == [
        ("the light", box),
        ("on the left", box),
        ("red one", box),
    ]
    assert source.record(1).regions == (Region((0.0, 0.0, 1.0, 0.5), "left half"),)


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [
        ({"category_id": 1, "bbox": [0, 0, 0, 5]}, "region_box"),
        ({"category_id": 1, "bbox": [0, 0, -5, 5]}, "region_box"),
        ({"category_id": 1, "bbox": [300, 0, 5, 5]}, "region_box"),
        ({"category_id": 1, "bbox": [0, 0, 5]}, "region_box"),
        ({"category_id": 1, "bbox": [0, 0, 5, "5"]}, "region_box"),
        ({"category_id": 1, "bbox": [0, 0, 5, True]}, "region_box"),
        ({"category_id": 1, "bbox": [0, 0, 5, float("nan")]}, "region_box"),
        ({"category_id": 1, "bbox": [0, 0, 5, float("inf")]}, "region_box"),
        ({"category_id": 1, "bbox": [0, 0, 5, 10**400]}, "region_box"),
        ({"category_id": 1, "bbox": {"x": 0}}, "region_box"),
        ({"category_id": 9, "bbox": [0, 0, 5, 5]}, "region_category"),
        ({"category_id": [1], "bbox": [0, 0, 5, 5]}, "region_category"),
        ({"category_id": 3, "bbox": [0, 0, 5, 5]}, "region_category"),
        ({"caption": 7}, "caption_not_text"),
        ({"caption": " "}, "caption_not_text"),
    ],
)
def test_a_damaged_annotation_spoils_its_image_alone(tmp_path, annotation, reason):
    damaged = [{"id": 6, "image_id": 8} | annotation]
    source = opened(
        tmp_path, annotations=GOOD["annotations"] + damaged, categories=[*CATEGORIES, {"id": 3, "name": None}]
    )
    assert problem(source, 1) == reason
    assert len(source.record(0).regions) == 2


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ({"ann_id": 99, "image_id": 8, "sentences": ["x"]}, "region_box"),
        ({"image_id": 8, "sentences": ["x"]}, "region_box"),
        ({"image_id": 8, "bbox": [0, 0, 5, 5]}, "region_text"),
        ({"image_id": 8, "bbox": [0, 0, 5, 5], "sentences": [{}]}, "region_text"),
        ({"image_id": 8, "bbox": [0, 0, 5, 5], "sentences": [3]}, "region_text"),
    ],
)
def test_a_damaged_reference_spoils_its_image_alone(tmp_path, reference, reason):
    source = opened(tmp_path, refs=[reference])
    assert problem(source, 1) == reason
    source.record(0)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (3, "image_id"),
        ({"file_name": "x.jpg"}, "image_id"),
        ({"id": [1], "file_name": "x.jpg"}, "image_id"),
        ({"id": 9, "height": 5, "width": 5}, "image_missing"),
        ({"id": 9, "file_name": 5, "height": 5, "width": 5}, "image_missing"),
        ({"id": 9, "file_name": "../x.jpg", "height": 5, "width": 5}, "image_outside_folder"),
        ({"id": 9, "file_name": "/etc/passwd", "height": 5, "width": 5}, "image_outside_folder"),
        ({"id": 9, "file_name": "x\0.jpg", "height": 5, "width": 5}, "image_outside_folder"),
        ({"id": 9, "file_name": "x.jpg", "height": 0, "width": 5}, "image_size"),
        ({"id": 9, "file_name": "x.jpg", "width": 5}, "image_size"),
        ({"id": 9, "file_name": "x.jpg", "height": "5", "width": 5}, "image_size"),
    ],
)
def test_a_damaged_image_is_a_record_with_a_reason(tmp_path, image, reason):
    source = opened(tmp_path, images=[*IMAGES, image])
    assert len(source) == 3
    assert problem(source, 2) == reason
    source.record(0)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ([], 'no list "images"'),
        ({"images": 3}, 'no list "images"'),
        ({"images": []}, "no images in"),
        ({"images": IMAGES, "annotations": {}}, '"annotations" in .* is not a list of objects'),
        ({"images": IMAGES, "categories": [1]}, '"categories" in .* is not a list of objects'),
    ],
)
def test_other_layouts_are_refused(tmp_path, content, complaint):
    with pytest.raises(ValueError, match=complaint):
        CocoRegionSource(write(tmp_path, content), tmp_path)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        CocoRegionSource(tmp_path / "none.json", tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder"):
        CocoRegionSource(write(tmp_path, GOOD), tmp_path / "none")


def test_it_travels_and_its_fingerprint_follows_the_content(tmp_path):
    source = opened(tmp_path)
    again = pickle.loads(pickle.dumps(source))
    assert again.record(0) == source.record(0)
    assert again.fingerprint() == source.fingerprint()
    other = CocoRegionSource(tmp_path / "annotations.json", tmp_path, language="en")
    assert len({source.fingerprint(), other.fingerprint(), opened(tmp_path, annotations=[]).fingerprint()}) == 3


def test_a_spec_names_files_and_folder(tmp_path):
    first, second = write(tmp_path, GOOD), write(tmp_path, {"images": IMAGES}, "more.json")
    source = CocoRegionSource.from_spec(f"coco:{first},{second}:{tmp_path}")
    assert len(source) == 2
    assert len(source.record(0).regions) == 2
    for spec in ("coco:", "coco:x.json", "coco:x.json:", "coco::images"):
        with pytest.raises(ValueError, match="is not of the form"):
            CocoRegionSource.from_spec(spec)
