"""Folders of pictures with maps: the meaning of their numbers, and missing, damaged and other files."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from diptych.core.data.records import BadExample
from diptych.core.data.sources.segmentation import (
    IGNORE,
    VOC_CLASSES,
    AdeSegmentation,
    DepthFolder,
    VocSegmentation,
    nearest_pixels,
)
from tests.core.data.pictures import encoded, pixels

HEIGHT, WIDTH = 24, 32


def palette_picture(values: np.ndarray) -> Image.Image:
    """Numbers with colours that are not the numbers, as VOC's files have them."""
    picture = Image.fromarray(values.astype(np.uint8), "L").convert("P")
    picture.putdata(values.ravel().tolist())
    picture.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
    return picture


def voc(root, values: dict[str, np.ndarray]):
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for place, (name, labels) in enumerate(values.items()):
        (root / "JPEGImages" / f"{name}.jpg").write_bytes(encoded(pixels(place), "JPEG"))
        palette_picture(labels).save(root / "SegmentationClass" / f"{name}.png")
    (root / "ImageSets/Segmentation/val.txt").write_text("\n".join(values) + "\n")
    return root


def folders(root, kind: str, maps: dict[str, Image.Image]):
    for folder in ("images/val", f"{kind}/val"):
        (root / folder).mkdir(parents=True)
    for place, (name, picture) in enumerate(maps.items()):
        (root / "images/val" / f"{name}.jpg").write_bytes(encoded(pixels(place), "JPEG"))
        picture.save(root / kind / "val" / f"{name}.png")
    return root


def labels(seed: int, values) -> np.ndarray:
    return np.random.default_rng(seed).choice(values, (HEIGHT, WIDTH))


def test_voc_labels_are_the_numbers_of_the_palette(tmp_path):
    assert len(VOC_CLASSES) == 21
    values = {"b_2": labels(0, [0, 1, 20, 255]), "a_1": labels(1, [0, 7])}
    source = VocSegmentation(voc(tmp_path, values), "val")
    assert [source.name(index) for index in range(len(source))] == ["b_2", "a_1"]  # as the list has them
    for index, expected in enumerate(values.values()):
        picture, found = source.pair(index)
        assert picture.shape == (HEIGHT, WIDTH, 3)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, expected)


def test_ade_labels_begin_with_zero_and_what_is_not_labelled_is_ignored(tmp_path):
    values = labels(0, [0, 1, 2, 150])
    source = AdeSegmentation(folders(tmp_path, "annotations", {"x": Image.fromarray(values.astype(np.uint8))}), "val")
    np.testing.assert_array_equal(source.pair(0)[1], np.where(values == 0, IGNORE, values - 1))
    assert len(source.class_names) == 150
    (tmp_path / "objectInfo150.txt").write_text("Idx\tRatio\tName\n1\t0.2\twall\n2\t0.1\tbuilding, edifice\n")
    named = AdeSegmentation(tmp_path, "val")
    assert named.class_names == ("wall", "building, edifice")
    with pytest.raises(BadExample, match="holds 150, at most 2"):
        named.pair(0)


@pytest.mark.parametrize(("scale", "metres"), [(1000.0, 4.321), (256.0, 4321 / 256)])
def test_depths_are_metres_and_nothing_is_unknown(tmp_path, scale, metres):
    values = np.zeros((HEIGHT, WIDTH), np.uint16)
    values[3, 5], values[4, 6] = 4321, 65535
    source = DepthFolder(folders(tmp_path, "depths", {"x": Image.fromarray(values)}), "val", scale=scale)
    depths = source.pair(0)[1]
    assert depths.dtype == np.float32
    assert depths[3, 5] == pytest.approx(metres)
    assert depths[4, 6] == pytest.approx(65535 / scale)
    assert np.count_nonzero(depths) == 2


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 12), st.integers(1, 12))
def test_another_size_takes_the_pixel_that_holds_the_centre(rows, columns, height, width):
    values = np.arange(rows * columns).reshape(rows, columns)
    found = nearest_pixels(values, (height, width))
    for y, x in np.ndindex(height, width):
        assert found[y, x] == values[int((y + 0.5) * rows / height), int((x + 0.5) * columns / width)]
    np.testing.assert_array_equal(nearest_pixels(values, values.shape), values)
    np.testing.assert_array_equal(
        nearest_pixels(values, (3 * rows, 2 * columns)), values.repeat(3, axis=0).repeat(2, axis=1)
    )


def test_all_pairs_in_one_size(tmp_path):
    source = VocSegmentation(voc(tmp_path, {"a": labels(0, [0, 5]), "b": labels(1, [0, 255])}), "val")
    pictures, maps = source.squashed((16, 16))
    assert (pictures.shape, pictures.dtype) == ((2, 16, 16, 3), np.uint8)
    assert maps.shape == (2, 16, 16)
    assert set(np.unique(maps)) <= {0, 5, 255}, "no class that was not there"
    np.testing.assert_array_equal(maps[0], nearest_pixels(source.pair(0)[1], (16, 16)))


def test_maps_that_are_of_no_use_say_why(tmp_path):
    good = labels(0, [0, 1])
    bad = {
        "coloured": (Image.fromarray(pixels(0)), "map_mode"),
        "small": (palette_picture(good[:, :9]), "map_size"),
        "beyond": (palette_picture(np.where(good, 21, 0)), "map_values"),
    }
    root = voc(tmp_path, dict.fromkeys([*bad, "damaged", "jpeg", "fine"], good))
    for name, (picture, _) in bad.items():
        picture.save(root / "SegmentationClass" / f"{name}.png")
    whole = (root / "SegmentationClass/fine.png").read_bytes()
    (root / "SegmentationClass/damaged.png").write_bytes(whole[: len(whole) // 2])
    (root / "SegmentationClass/jpeg.png").write_bytes(encoded(pixels(0), "JPEG"))
    source, reasons = VocSegmentation(root, "val"), {}
    for index in range(len(source)):
        try:
            source.pair(index)
        except BadExample as error:
            reasons[source.name(index)] = error.reason
    assert reasons == {name: reason for name, (_, reason) in bad.items()} | dict.fromkeys(
        ["damaged", "jpeg"], "map_damaged"
    )


def test_a_depth_of_eight_bits_is_refused(tmp_path):
    grey = Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8))
    with pytest.raises(BadExample, match="need a PNG of 16"):
        DepthFolder(folders(tmp_path, "depths", {"x": grey}), "val").pair(0)


def test_what_is_no_such_folder_says_what_is_missing(tmp_path):
    root = voc(tmp_path / "voc", {"a": labels(0, [0])})
    with pytest.raises(FileNotFoundError, match=r"train\.txt; the splits are val"):
        VocSegmentation(root, "train")
    with pytest.raises(FileNotFoundError, match="no folder .*images.*val; .* holds ImageSets, JPEGImages"):
        AdeSegmentation(root, "val")
    (root / "SegmentationClass/a.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of the 2 files .* the first .*a\.png"):
        VocSegmentation(root, "val")
    (root / "ImageSets/Segmentation/val.txt").write_text("../secret\n")
    with pytest.raises(ValueError, match="must hold the name"):
        VocSegmentation(root, "val")
    (root / "ImageSets/Segmentation/val.txt").write_text("\n")
    with pytest.raises(ValueError, match="got nothing"):
        VocSegmentation(root, "val")
    empty = folders(tmp_path / "empty", "depths", {})
    with pytest.raises(ValueError, match="no pictures"):
        DepthFolder(empty, "val")
    with pytest.raises(ValueError, match="scale must be above 0"):
        DepthFolder(empty, "val", scale=0)
