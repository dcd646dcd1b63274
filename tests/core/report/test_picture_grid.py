"""Grids of pictures: everything in its place, whatever the sizes and the words."""

import numpy as np
import pytest

from diptych.core.report.picture_grid import GAP, GROUND, MARGIN, Cell, picture_grid

RED = np.broadcast_to(np.array([255, 0, 0], np.uint8), (8, 8, 3))


def found(grid: np.ndarray, colour: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    return np.nonzero((grid == np.array(colour)).all(axis=2))


def test_pictures_stand_in_rows_and_columns():
    grid = picture_grid([[Cell(picture=RED), Cell(picture=RED)], [Cell(picture=RED)]], side=40)
    assert grid.shape == (2 * MARGIN + 2 * 40 + GAP, 2 * MARGIN + 2 * 40 + GAP, 3)
    rows, columns = found(grid, (255, 0, 0))
    assert len(rows) == 3 * 40 * 40
    assert (grid[MARGIN, MARGIN] == [255, 0, 0]).all()
    assert (grid[-MARGIN - 1, -MARGIN - 1] == GROUND).all(), "the second row has one picture"


def test_a_picture_keeps_its_shape():
    wide = np.broadcast_to(np.array([0, 0, 255], np.uint8), (10, 40, 3))
    rows, columns = found(picture_grid([[Cell(picture=wide)]], side=80), (0, 0, 255))
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (20, 80)


def test_words_headings_and_legend_take_their_own_room():
    plain = picture_grid([[Cell(picture=RED)]], side=60)
    worded = picture_grid([[Cell(picture=RED, lines=("one", "two"))]], headings=["a"], side=60)
    legend = picture_grid([[Cell(picture=RED)]], legend=[(f"name {i}", (i, 200, 0)) for i in range(5)], side=60)
    assert plain.shape[0] < worded.shape[0]
    assert len(found(worded, (255, 0, 0))[0]) == len(found(plain, (255, 0, 0))[0]) == 3600
    for number in range(5):
        rows, columns = found(legend, (number, 200, 0))
        assert len(rows) > 80, "every swatch is seen, on as many lines as it takes"
        assert columns.max() < legend.shape[1] - MARGIN


def test_a_long_line_does_not_run_into_its_neighbour():
    grid = picture_grid([[Cell(picture=RED, lines=("word " * 40,)), Cell(picture=RED)]], side=60)
    between = grid[:, MARGIN + 60 : MARGIN + 60 + GAP]
    assert (between == GROUND).all()


def test_no_picture_is_refused():
    with pytest.raises(ValueError, match="at least one picture"):
        picture_grid([[]])
