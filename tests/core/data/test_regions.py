"""Boxes: what a region may have, their text there and back, and how far two agree."""

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from diptych.core.data.records import BadExample, Record, Region
from diptych.core.data.regions import BOX_ORDERS, box_area, box_iou, box_text, parse_box, relative_box

UNIT = st.floats(0, 1)
BINS = st.integers(2, 2000)
ORDERS = st.sampled_from(BOX_ORDERS)


@st.composite
def boxes(draw) -> tuple[float, float, float, float]:
    ymin, ymax = sorted((draw(UNIT), draw(UNIT)))
    xmin, xmax = sorted((draw(UNIT), draw(UNIT)))
    return ymin, xmin, ymax, xmax


def rounding(bins: int) -> float:
    """Of x * (bins - 1) and back, beyond half a bin."""
    return 4 * np.finfo(float).eps * bins / (bins - 1)


# Text


@given(boxes(), BINS, ORDERS)
@example((0.0, 0.0, 1.0, 1.0), 2, "xyxy")
def test_text_and_back_is_off_by_half_a_bin_at_most(box, bins, order):
    back = parse_box(box_text(box, bins=bins, order=order), bins=bins, order=order)
    assert back is not None
    assert np.abs(np.subtract(back, box)).max() <= 0.5 / (bins - 1) + rounding(bins)


@given(boxes(), BINS, ORDERS)
def test_numbers_are_whole_below_bins_and_the_second_time_the_same(box, bins, order):
    text = box_text(box, bins=bins, order=order)
    assert all(0 <= int(number) < bins for number in text.split(" "))
    assert box_text(parse_box(text, bins=bins, order=order), bins=bins, order=order) == text


def test_orders_are_told_apart():
    box = (0.0, 0.25, 0.5, 1.0)
    assert box_text(box, bins=5) == "0 1 2 4"
    assert box_text(box, bins=5, order="xyxy") == "1 0 4 2"
    assert parse_box("1 0 4 2", bins=5, order="xyxy") == box
    assert parse_box("1 0 4 2", bins=5) != box
    assert box_text((0.0, 0.0, 1.0, 1.0)) == "0 0 499 499"


@pytest.mark.parametrize(
    "text", ["10 20 30 40", "  10,20 ,30, 40. ", "[10, 20, 30, 40]", "(10; 20; 30; 40)", "10\t20\n30 40"]
)
def test_what_a_decoder_may_write_is_read(text):
    assert parse_box(text, bins=101) == (0.1, 0.2, 0.3, 0.4)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "dog",
        "10 20 30",
        "10 20 30 40 50",
        "10203040",
        "30 20 10 40",
        "10 40 30 20",
        "10 20 30 500",
        "-1 20 30 40",
        "1.5 20 30 40",
        "10 20 30 dog",
        "dog : 10 20 30 40",
        "１ ２ ３ ４",
        "9" * 100_000,
        "1 " * 100_000,
        "10 20 30 99999999999999999999",
    ],
)
def test_rubbish_and_swapped_corners_are_no_box(text):
    assert parse_box(text) is None


@given(st.text(max_size=300), ORDERS)
def test_any_text_gives_a_valid_box_or_none(text, order):
    box = parse_box(text, order=order)
    if box is not None:
        Region(box, "valid")


@pytest.mark.parametrize(("bins", "order"), [(1, "yxyx"), (500, "xywh")])
def test_settings_are_checked(bins, order):
    with pytest.raises(ValueError, match="2 bins or more and an order of yxyx, xyxy"):
        box_text((0, 0, 1, 1), bins=bins, order=order)


# Regions


@pytest.mark.parametrize(
    "box",
    [
        (0.5, 0, 0.4, 1),
        (0, 0.5, 1, 0.4),
        (-0.1, 0, 1, 1),
        (0, 0, 1, 1.1),
        (0, 0, 1),
        (0, 0, float("nan"), 1),
        "none",
        None,
    ],
)
def test_regions_refuse_what_is_no_box(box):
    with pytest.raises(BadExample, match="region_box"):
        Region(box, "text")


def test_regions_refuse_scores_outside_0_and_1_and_records_have_none_unless_given():
    with pytest.raises(BadExample, match="region_score"):
        Region((0, 0, 1, 1), "text", score=1.5)
    assert Record("key", (), ()).regions == ()


@given(*[st.floats(-50, 150) for _ in range(4)], st.integers(1, 100), st.integers(1, 100))
def test_boxes_in_pixels_are_cut_to_the_image_or_refused(top, left, bottom, right, height, width):
    inside = top < bottom and left < right and min(bottom, height) > max(top, 0) and min(right, width) > max(left, 0)
    if not inside:
        with pytest.raises(BadExample, match="region_box"):
            relative_box(top, left, bottom, right, height, width)
        return
    assume((min(bottom, height) - max(top, 0)) > 1e-9 and (min(right, width) - max(left, 0)) > 1e-9)
    box = relative_box(top, left, bottom, right, height, width)
    Region(box, "valid")
    expected = np.array([max(top, 0), max(left, 0), min(bottom, height), min(right, width)])
    np.testing.assert_allclose(np.multiply(box, [height, width] * 2), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_boxes_that_are_not_finite_are_refused(number):
    with pytest.raises(BadExample, match="region_box"):
        relative_box(0, 0, number, 5, 10, 10)


# Agreement


@given(boxes(), boxes())
def test_iou_is_symmetric_in_0_and_1_and_whole_for_a_box_with_itself(one, other):
    agreement = float(box_iou(one, other))
    assert agreement == float(box_iou(other, one))
    assert 0 <= agreement <= 1 + 1e-12
    if box_area(np.array(one)) > 1e-12:
        assert float(box_iou(one, one)) == 1


@given(st.lists(st.tuples(*[st.integers(0, 12)] * 4), min_size=2, max_size=2))
def test_iou_counts_pixels(corners):
    masks, found = [], []
    for ya, xa, yb, xb in corners:
        box = min(ya, yb), min(xa, xb), max(ya, yb), max(xa, xb)
        mask = np.zeros((12, 12), bool)
        mask[box[0] : box[2], box[1] : box[3]] = True
        masks.append(mask)
        found.append(box)
    either = (masks[0] | masks[1]).sum()
    expected = (masks[0] & masks[1]).sum() / either if either else 0.0
    assert float(box_iou(*found)) == pytest.approx(expected, rel=1e-12)


def test_iou_broadcasts_all_with_all():
    one, other = np.random.default_rng(0).random((3, 4)), np.random.default_rng(1).random((5, 4))
    table = box_iou(one[:, None], other[None])
    assert table.shape == (3, 5)
    assert table[2, 4] == box_iou(one[2], other[4])
