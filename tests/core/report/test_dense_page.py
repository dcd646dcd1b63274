"""The page about places: what there is is shown, what is not is left out, and nothing is loaded or run."""

import re

import numpy as np
import pytest

from diptych.core.evaluation.depth_probe import depth_scores
from diptych.core.evaluation.localization import accuracy_at_iou
from diptych.core.evaluation.neighbours import neighbours
from diptych.core.evaluation.segmentation_scores import segmentation_scores
from diptych.core.report.box_gallery import Located
from diptych.core.report.dense_page import DensePictures, dense_page, dense_sections
from diptych.core.report.patch_pictures import PatchPicture, principal_colours
from diptych.core.report.segmentation_pictures import SegmentationPicture

BOX = (0.1, 0.1, 0.5, 0.6)
PICTURE = np.full((16, 16, 3), 120, np.uint8)
NAMES = ("<sky>", "sea", "absent")


def results():
    rng = np.random.default_rng(0)
    labels, depths = rng.integers(0, 2, (4, 6, 6)), rng.uniform(1, 5, (4, 6, 6))
    features = rng.normal(size=(30, 5))
    return {
        "segmentation": {"Voc & co": {**segmentation_scores(labels, labels, NAMES), "pooled": True}},
        "depth": {"NYU": depth_scores(depths * 1.1, depths)},
        "neighbours": {"Emoji": neighbours(features, np.arange(30) % 2, features, np.arange(30) % 2, ("a", "b"))},
        "localization": {"RefCOCO val": accuracy_at_iou([BOX, None], np.array([BOX, BOX]))},
    }


def pictures():
    labels = np.arange(16)[:, None].repeat(16, axis=1) % 2
    return DensePictures(
        patches=[
            PatchPicture(picture=PICTURE, colours=principal_colours(np.random.default_rng(0).random((1, 4, 4, 5)))[0])
        ],
        segmentation=[SegmentationPicture(picture=PICTURE, truth=labels, predicted=labels)],
        class_names=NAMES,
        located=[Located(picture=PICTURE, phrase="the thing", true=BOX, predicted=BOX)],
    )


def test_everything_is_shown():
    page = dense_page(results(), pictures())
    for words in ("Features of patches", "Segmentation", "Depth", "Nearest neighbours", "Localization", "Voc &amp; co"):
        assert f">{words}" in page or words in page
    for cell in ("with the pooled vector", "NYU", "RefCOCO val", "the thing", "&lt;sky&gt;"):
        assert cell in page
    assert page.count("<img") == 2 + 3 + 1
    assert "1 classes occur neither" in page
    assert "<sky>" not in page


def test_the_page_loads_nothing_and_runs_nothing():
    page = dense_page(results(), pictures())
    assert "<script" not in page
    assert not re.search(r"(?:src|href)=\"(?!data:)", page)
    assert "url(" not in page


@pytest.mark.parametrize("kind", ["segmentation", "depth", "neighbours", "localization"])
def test_each_result_stands_alone(kind):
    page = dense_page({kind: results()[kind]})
    assert page.count("<section") == 1
    assert page.count('class="wide-table"') == 1


def test_pictures_stand_without_results():
    page = dense_page({}, pictures())
    assert page.count("<section") == 3
    assert "wide-table" not in page.partition("<body")[2].replace(".wide-table", "")


def test_nothing_makes_no_section_and_the_unknown_is_refused():
    assert dense_sections({}) == []
    with pytest.raises(ValueError, match="got normals"):
        dense_page({"normals": {}})


def test_numbers_are_those_of_the_results():
    given = results()
    page = dense_page(given)
    accuracy, rmse = given["localization"]["RefCOCO val"]["accuracy"], given["depth"]["NYU"]["rmse"]
    assert f'<data value="{accuracy!r}">50.0%</data>' in page
    assert f'<data value="{rmse!r}">' in page
