"""Boxes on pictures: where they are drawn, what is written under them, and phrases that nobody can break out of."""

import numpy as np
import pytest

from diptych.core.report.box_gallery import PREDICTED, STYLE, TRUE, Located, box_gallery, with_boxes

DARK = np.full((50, 100, 3), 20, np.uint8)
BOX = (0.2, 0.1, 0.8, 0.5)


def located(predicted, phrase: str = "a phrase", true=BOX) -> Located:
    return Located(picture=DARK, phrase=phrase, true=true, predicted=predicted)


def extent(picture: np.ndarray, colour: tuple[int, int, int]) -> list[float]:
    """(ymin, xmin, ymax, xmax) of a colour, 0 to 1 of the picture."""
    rows, columns = np.nonzero((picture == np.array(colour)).all(axis=2))
    height, width = picture.shape[:2]
    return [rows.min() / height, columns.min() / width, (rows.max() + 1) / height, (columns.max() + 1) / width]


def test_both_boxes_are_where_they_say():
    picture = with_boxes(located((0.1, 0.4, 0.9, 0.95)), side=400)
    assert picture.shape == (200, 400, 3)
    assert extent(picture, TRUE) == pytest.approx(BOX, abs=0.01)
    assert extent(picture, PREDICTED) == pytest.approx([0.1, 0.4, 0.9, 0.95], abs=0.01)


def test_equal_boxes_show_both_colours():
    picture = with_boxes(located(BOX), side=400)
    for colour in (TRUE, PREDICTED):
        assert extent(picture, colour) == pytest.approx(BOX, abs=0.03)


@pytest.mark.parametrize("predicted", [None, (np.nan, 0, 1, 1), (0.9, 0.9, 0.1, 0.1), (2, 2, 3, 3)])
def test_what_is_no_box_is_not_drawn(predicted):
    picture = with_boxes(located(predicted), side=200)
    assert extent(picture, TRUE) == pytest.approx(BOX, abs=0.02)
    assert not (picture == np.array(PREDICTED)).all(axis=2).any()
    assert located(predicted).iou == 0.0


def test_a_box_beyond_the_edge_is_cut():
    picture = with_boxes(located((-1, -1, 0.5, 0.5)), side=200)
    assert extent(picture, PREDICTED)[:2] == [0, 0]


def test_cards_say_how_much_the_boxes_overlap():
    page = box_gallery([located(BOX), located((0.2, 0.1, 0.8, 0.2)), located(None, "<b>‮none</b>")])
    assert page.count('class="boxed"') == page.count("<img") == 3
    assert ">1.00</data>" in page
    assert ">0.25</data>" in page
    assert "no box in the answer" in page
    assert page.count('class="right"') == 1
    assert page.count('class="wrong"') == 2
    assert "<b>" not in page
    assert f"--swatch:rgb({','.join(map(str, TRUE))})" in page
    assert "var(--swatch)" in STYLE
    loose = box_gallery([located((0.2, 0.1, 0.8, 0.2))], threshold=0.25)
    assert 'class="right"' in loose
