"""Classes as colours: apart from each other, laid where the labels say, named in the legend."""

import numpy as np
import pytest

from diptych.core.data.sources.segmentation import IGNORE
from diptych.core.report.segmentation_pictures import (
    SegmentationPicture,
    class_colours,
    classes_shown,
    coloured,
    segmentation_figure,
)

PICTURE = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def test_colours_are_apart_and_do_not_depend_on_how_many_there_are():
    colours = class_colours(21).astype(int)
    distances = np.abs(colours[:, None] - colours).sum(axis=-1)
    assert distances[~np.eye(21, dtype=bool)].min() > 40
    assert len(np.unique(class_colours(150), axis=0)) == 150
    np.testing.assert_array_equal(class_colours(5), class_colours(150)[:5])


def test_a_class_colours_its_pixels_and_no_others():
    labels = np.full((6, 8), IGNORE, np.uint8)
    labels[2:4, 1:5] = 3
    shown = coloured(PICTURE, labels, 5, strength=1.0)
    assert (shown[2:4, 1:5] == class_colours(5)[3]).all()
    outside = labels == IGNORE
    np.testing.assert_array_equal(shown[outside], PICTURE[outside])
    faint = coloured(PICTURE, labels, 5, strength=0.0)[2:4, 1:5]
    assert (faint == faint[..., :1]).all(), "without the colour the picture is grey"


def test_sizes_and_labels_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="picture's size"):
        coloured(PICTURE, np.zeros((8, 6), int), 2)
    with pytest.raises(ValueError, match="labels must be 0 to 1"):
        coloured(PICTURE, np.full((6, 8), 2), 2)


def test_the_legend_names_what_is_shown():
    truth = np.zeros((6, 8), np.uint8)
    truth[0], truth[5] = IGNORE, 2
    predicted = np.zeros((6, 8), np.uint8)
    predicted[0] = 3  # where nothing counts
    each = SegmentationPicture(picture=PICTURE, truth=truth, predicted=predicted)
    assert classes_shown([each]) == [0, 2]
    names = ("sky", "sea", "R&D", "never")
    page = segmentation_figure([each, each], names)
    assert page.count("<img") == 6
    assert "R&amp;D" in page
    assert "never" not in page
    assert "sea" not in page
