"""Boxes, names and codes in answers, there and back, and masks in their places."""

import numpy as np
import pytest

from diptych.core.data.detections import (
    Detection,
    Detections,
    code_text,
    mask_in_picture,
    parse_detections,
    place_text,
)
from diptych.core.data.records import BadExample

CODES = tuple(range(3, 19))


def test_boxes_are_four_places_of_1023_steps_y_before_x():
    assert place_text((0.0, 0.25, 0.5, 1.0)) == "<loc0000><loc0256><loc0512><loc1023>"
    assert place_text((0.0, 0.25, 0.5, 1.0), steps=1024) == "<loc0000><loc0256><loc0512><loc1023>"
    (found,) = parse_detections("<loc0000><loc0256><loc0512><loc1023> cat").found
    assert found == Detection(box=(0.0, 256 / 1023, 512 / 1023, 1.0), label="cat")
    (halves,) = parse_detections("<loc0000><loc0256><loc0512><loc1023> cat", steps=1024).found
    assert halves.box == (0.0, 0.25, 0.5, 1023 / 1024)
    with pytest.raises(BadExample, match="corners in order"):
        place_text((0.5, 0.0, 0.25, 1.0))


def test_every_box_comes_back_within_half_a_step():
    rng = np.random.default_rng(0)
    for _ in range(200):
        ymin, ymax, xmin, xmax = (*np.sort(rng.random(2)), *np.sort(rng.random(2)))
        (found,) = parse_detections(place_text((ymin, xmin, ymax, xmax)) + " a thing").found
        assert np.abs(np.array(found.box) - (ymin, xmin, ymax, xmax)).max() <= 0.5 / 1023 + 1e-12


def test_several_things_and_masks_are_read_in_order():
    box = "<loc0010><loc0020><loc0030><loc0040>"
    found = parse_detections(f"{box} cat ; {box}{code_text(CODES)} a small dog;{box}")
    assert [(one.label, one.codes) for one in found.found] == [("cat", None), ("a small dog", CODES), ("", None)]
    assert found.unreadable == ()


@pytest.mark.parametrize(
    "part",
    [
        "a cat",
        "<loc0010><loc0020><loc0030> three corners",
        "<loc0030><loc0020><loc0010><loc0040> upside down",
        "<loc0010><loc0020><loc0030><loc1024> beyond",
        "<loc0010><loc0020><loc0030><loc0040><seg001> one code",
        "<loc0010><loc0020><loc0030><loc0040>" + code_text((*CODES[:15], 128)),
        "<loc0010><loc0020><loc0030><loc0040><loc0050> five",
    ],
)
def test_what_is_no_thing_is_told_apart(part):
    good = "<loc0010><loc0020><loc0030><loc0040> cat"
    found = parse_detections(f"{part} ; {good}")
    assert (len(found.found), found.unreadable) == (1, (part,))
    assert parse_detections("") == Detections(found=(), unreadable=())


def test_masks_are_stretched_over_their_boxes():
    box = (10, 20, 42, 52)
    mask = np.where(np.arange(64)[:, None] + np.zeros(64) < 32, 1.0, -1.0)  # the upper half
    whole = mask_in_picture(mask, box, 60, 70)
    assert whole.shape == (60, 70)
    expected = np.zeros((60, 70), bool)
    expected[10:26, 20:52] = True
    np.testing.assert_array_equal(whole, expected)
    assert not mask_in_picture(mask, (5, 5, 5, 9), 60, 70).any()
    assert Detection(box=(0.0, 0.1, 0.5, 1.0), label="").pixel_box(60, 70) == (0, 7, 30, 70)
