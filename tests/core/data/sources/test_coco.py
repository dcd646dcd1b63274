"""COCO's and RefCOCO's layouts: what becomes a region, and what a reason to leave an image out."""

import json
import pickle

import pytest
from PIL import Image

from diptych.core.data.ledger import visit
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
def test_a_damaged_annotation_is_left_out_and_the_rest_of_its_image_stays(tmp_path, annotation, reason):
    damaged = [{"id": 6, "image_id": 7} | annotation]
    source = opened(
        tmp_path, annotations=GOOD["annotations"] + damaged, categories=[*CATEGORIES, {"id": 3, "name": None}]
    )
    assert len(source.record(0).regions) == 2
    assert source.record(0).captions == (Caption("A dog at a light."),)
    assert list(source.ledger.left_out) == ["annotation_image", reason]
    assert source.ledger.left_out[reason].count == 1
    assert source.ledger.left_out[reason].names[0].startswith("annotations.json: annotation 6: ")
    assert not source.ledger.skipped


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ({"ann_id": 99, "image_id": 8, "sentences": ["x"]}, "reference_annotation"),
        ({"image_id": 8, "sentences": ["x"]}, "region_box"),
        ({"image_id": 8, "bbox": [0, 0, 5, 5]}, "region_text"),
        ({"image_id": 8, "bbox": [0, 0, 5, 5], "sentences": [{}]}, "region_text"),
        ({"image_id": 8, "bbox": [0, 0, 5, 5], "sentences": [3]}, "region_text"),
    ],
)
def test_a_damaged_reference_is_left_out(tmp_path, reference, reason):
    good = {"ann_id": 1, "sentences": ["the light"]}
    source = opened(tmp_path, refs=[good, reference])
    assert len(source.record(0).regions) == 3
    assert source.record(1).regions == ()
    assert source.ledger.left_out[reason].count == 1


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
        ([], "no images in"),
        ([1], '"refs" in .* is not a list of objects'),
        ({"version": 3}, "none of the lists images, annotations, categories, refs"),
        ({"images": 3}, '"images" in .* is not a list'),
        ({"images": []}, "no images in"),
        ({"images": IMAGES, "annotations": {}}, '"annotations" in .* is not a list of objects'),
        ({"images": IMAGES, "categories": [1]}, '"categories" in .* is not a list of objects'),
    ],
)
def test_other_layouts_are_refused(tmp_path, content, complaint):
    with pytest.raises(ValueError, match=complaint):
        CocoRegionSource(write(tmp_path, content), tmp_path)


def joined(tmp_path, images, annotations, **more) -> CocoRegionSource:
    return CocoRegionSource(write(tmp_path, {"images": images, "annotations": annotations} | more), tmp_path)


def captions_of(source) -> dict[str, list[str]]:
    records = [source.record(index) for index in range(len(source))]
    return {record.key: [caption.text for caption in record.captions] for record in records}


def test_files_that_count_different_pictures_from_one_keep_them_apart(tmp_path):
    paths = [
        write(
            tmp_path,
            {
                "images": [{"id": number, "file_name": f"{name}{number}.jpg"} for number in (1, 2)],
                "annotations": [{"image_id": number, "caption": f"{name} {number}"} for number in (1, 2)],
            },
            f"{name}.json",
        )
        for name in ("train", "val")
    ]
    assert captions_of(CocoRegionSource(paths, tmp_path)) == {
        f"{name}{number}": [f"{name} {number}"] for name in ("train", "val") for number in (1, 2)
    }


def test_a_file_without_images_speaks_of_those_of_the_others(tmp_path):
    captions = {"images": [], "annotations": [{"image_id": 8, "caption": "Nothing."}]}
    source = CocoRegionSource([write(tmp_path, captions, "a.json"), write(tmp_path, GOOD)], tmp_path)
    assert captions_of(source) == {"a/one": ["A dog at a light."], "two": ["Nothing."]}


BOXES = [{"id": number, "image_id": 7, "category_id": 2, "bbox": [20, 10, 100, 30]} for number in (1, 2)]
REFERENCES = [{"ann_id": 2, "image_id": 7, "ref_id": 4, "category_id": 2, "split": "val", "sentences": [{"raw": "it"}]}]


@pytest.mark.parametrize(
    "files",
    [
        [{"images": IMAGES, "annotations": BOXES, "categories": CATEGORIES}, REFERENCES],
        [{"refs": REFERENCES}, {"images": IMAGES, "annotations": BOXES, "categories": CATEGORIES}],
        [{"images": IMAGES, "annotations": BOXES, "categories": CATEGORIES}, {"images": [], "refs": REFERENCES}],
        [{"images": IMAGES}, {"annotations": BOXES}, {"categories": CATEGORIES}, {"refs": REFERENCES}],
        [{"images": IMAGES, "annotations": BOXES, "categories": CATEGORIES, "refs": REFERENCES}],
    ],
)
@pytest.mark.parametrize("captions", [False, True])
def test_images_annotations_categories_and_references_may_stand_in_files_of_their_own(tmp_path, files, captions):
    if captions:  # whose ids are those of boxes, too
        files = [*files, {"images": IMAGES, "annotations": [{"id": 2, "image_id": 8, "caption": "Nothing."}]}]
    names = [write(tmp_path, content, f"{number}.json") for number, content in enumerate(files)]
    source = CocoRegionSource.from_spec(f"coco:{','.join(map(str, names))}:{tmp_path}")
    assert sorted(region.text for region in source.record(0).regions) == ["it", "traffic light", "traffic light"]
    assert [caption.text for caption in source.record(1).captions] == ["Nothing."] * captions
    assert not source.ledger.left_out


def test_references_by_an_id_that_several_files_have_are_left_out(tmp_path):
    first = {"images": IMAGES, "annotations": BOXES, "categories": CATEGORIES}
    other = {"images": [{"id": 7, "file_name": "b.jpg", "height": 99, "width": 99}], "annotations": BOXES[1:]}
    references = [REFERENCES[0], REFERENCES[0] | {"ann_id": 1}]
    contents = (first, other | {"categories": CATEGORIES}, references)
    paths = [write(tmp_path, content, f"{number}.json") for number, content in enumerate(contents)]
    source = CocoRegionSource(paths, tmp_path)
    assert [region.text for region in source.record(0).regions].count("it") == 1
    (name,) = source.ledger.left_out["reference_annotation"].names
    assert "2 is the id of several annotations" in name


def test_bad_records_of_one_name_count_each_and_have_names_of_their_own(tmp_path):
    """Files that split a data set may have one name, and a file may list one picture under two ids."""
    paths = []
    for part in ("a", "b"):
        (tmp_path / part).mkdir()
        images = [{"id": 1, "file_name": f"{part}.jpg"}, {"id": 2, "file_name": f"{part}.jpg"}, {"id": 3}]
        paths.append(write(tmp_path / part, {"images": images}, "instances.json"))
    source = CocoRegionSource(paths, tmp_path)
    assert list(visit(source, lambda record: source.read(record.images[0]))) == []
    assert [one.name for one in source.ledger.skipped.values()] == [
        "a.jpg",
        "a.jpg#1",
        "a/instances.json: image 2",
        "b.jpg",
        "b.jpg#4",
        "b/instances.json: image 2",
    ]


@pytest.mark.parametrize(("stored", "asked"), [(1, 1.0), (1, "1"), ("1", 1), (2.0, 2), ("007", "007"), ("a", "a")])
def test_ids_are_one_however_they_are_written(tmp_path, stored, asked):
    source = joined(tmp_path, [{"id": stored, "file_name": "x.jpg"}], [{"image_id": asked, "caption": "here"}])
    assert captions_of(source) == {"x": ["here"]}


@pytest.mark.parametrize("asked", [7, "01", 1.5, True, None, [1], float("nan"), "9" * 5_000])
def test_annotations_that_fit_no_image_are_counted_and_refused_where_none_fits(tmp_path, asked):
    images = [{"id": 1, "file_name": "x.jpg"}]
    annotations = [{"image_id": asked, "caption": "lost"}, {"image_id": 1, "caption": "here"}]
    source = joined(tmp_path, images, annotations)
    assert captions_of(source) == {"x": ["here"]}
    assert source.ledger.left_out["annotation_image"].count == 1
    with pytest.raises(ValueError, match=r"none of the 1 times that .* speaks of images by id .*there are 1\."):
        joined(tmp_path, images, annotations[:1])


def test_categories_and_references_that_fit_nothing_at_all_are_refused(tmp_path):
    with pytest.raises(ValueError, match="speaks of categories by id .*there are 7"):
        opened(tmp_path, categories=[{"id": 7, "name": "cat"}])
    with pytest.raises(ValueError, match="speaks of annotations by id"):
        opened(tmp_path, refs=[{"ann_id": 99, "sentences": ["x"]}])


def test_ids_of_several_things_join_nothing(tmp_path):
    images = [{"id": 1, "file_name": "x.jpg"}, {"id": "1", "file_name": "y.jpg"}, {"id": 2, "file_name": "z.jpg"}]
    source = joined(tmp_path, images, [{"image_id": 1, "caption": "whose?"}, {"image_id": 2, "caption": "here"}])
    assert captions_of(source) == {"x": [], "y": [], "z": ["here"]}
    assert "several images" in source.ledger.left_out["annotation_image"].names[0]
    source = opened(tmp_path, categories=[*CATEGORIES, {"id": 1, "name": "cat"}])
    assert [region.text for region in source.record(0).regions] == ["traffic light"]


@pytest.mark.parametrize("size", [{}, {"height": -1, "width": -1}, {"height": None, "width": 8}, {"height": "9"}])
def test_a_picture_whose_size_is_not_given_is_asked_where_it_has_boxes(tmp_path, size):
    picture = Image.new("RGB", (40, 20))
    turned = picture.getexif()
    turned[0x0112] = 6  # lies on its side: upright it is 20 wide and 40 high
    picture.save(tmp_path / "x.jpg", exif=turned)
    images = [{"id": number, "file_name": f"{name}.jpg"} | size for number, name in enumerate("xy")]
    boxes = [{"id": number, "image_id": number, "category_id": 1, "bbox": [0, 0, 10, 10]} for number in (0, 1)]
    source = joined(tmp_path, images, [*boxes, {"image_id": 1, "caption": "no size is needed"}], categories=CATEGORIES)
    assert source.record(0).regions == (Region((0.0, 0.0, 0.25, 0.5), "dog"),)
    assert source.record(1).captions == (Caption("no size is needed"),), "y.jpg is not there, its captions are"
    assert source.ledger.left_out["image_size"].count == 1


def test_an_image_that_is_listed_twice_is_one(tmp_path):
    images = [{"id": 1, "file_name": "x.jpg"}, {"id": 1.0, "file_name": "x.jpg"}]
    assert captions_of(joined(tmp_path, images, [{"image_id": 1, "caption": "here"}])) == {"x": ["here"]}


def test_annotations_of_a_damaged_image_are_no_fault_of_their_own(tmp_path):
    box = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "caption": "x"}
    source = joined(tmp_path, [{"id": 1}], [box], categories=CATEGORIES)
    assert problem(source, 0) == "image_missing"
    assert not source.ledger.left_out


def test_images_of_one_name_have_keys_of_their_own(tmp_path):
    images = [{"id": number, "file_name": f"x.{suffix}"} for number, suffix in enumerate(("jpg", "png", "gif"))]
    assert list(captions_of(joined(tmp_path, images, []))) == ["x", "x#1", "x#2"]


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
