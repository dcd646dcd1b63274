"""The classes of a classifier's report: legible from two to a thousand, and its wrong answers with pictures."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from diptych.core.evaluation.classification import classification
from diptych.core.evaluation.several_labels import several_labels
from diptych.core.report.run.confusion import confusion_map, confusion_panel, part_of
from diptych.core.report.run.contents import ReportData, WrongAnswers
from diptych.core.report.run.matrix import confusion_figure
from diptych.core.report.run.page import render


def result_of(classes: int, images: int = 2_000) -> dict:
    """Class 0 is taken for class 1 in half of its images; others are right, but for one in a hundred."""
    rng = np.random.default_rng(0)
    labels = np.arange(images) % classes
    answers = np.where(rng.random(images) < 0.01, rng.integers(0, classes, images), labels)
    answers[np.flatnonzero(labels == 0)[::2]] = 1
    scores = np.eye(classes)[answers] + 1e-3 * rng.random((images, classes))
    return classification(scores, labels, [f"class {place}" for place in range(classes)], logit_bias=None)


def wrong() -> WrongAnswers:
    return WrongAnswers(
        thumbnails=np.zeros((1, 8, 8, 3), np.uint8),
        keys=["<dog>/7"],
        truths=["dog"],
        answers=["cat"],
        probabilities=[0.9],
        of_truths=[0.05],
        count=3,
    )


@pytest.mark.parametrize("classes", [2, 9, 40, 41, 1_000])
def test_a_confusion_is_legible_with_any_number_of_classes(classes):
    text = confusion_panel(result_of(classes))
    assert "class 0 taken for class 1: " in text
    assert len(text) < 1_500_000
    assert ("data:image/png" in text) == (classes > 40)


def test_the_map_has_a_point_for_each_pair_of_classes():
    text = confusion_panel(result_of(1_000, images=4_000))
    (encoded,) = re.findall(r"data:image/png;base64,([^\"]+)", text)
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))))
    assert pixels.shape == (1_000, 1_000, 4)
    assert pixels[0, 1, 3] == round(255 * 0.5**0.5)
    assert pixels[5, 5, 2] > pixels[5, 5, 0]  # right is blue
    assert pixels[0, 1, 0] > pixels[0, 1, 2]  # wrong is red
    assert pixels[5, 6, 3] > 200, "a line that is thinner than a pixel of the page is not seen"


def test_names_fit_into_the_table_of_few_classes():
    result = {"class_names": ["a", "the longest of all names"], "confusion": [[1, 0], [0, 1]], "no_answer": [0, 0]}
    short = {**result, "class_names": ["a", "b"]}
    sizes = []
    for each in (result, short):
        text = confusion_figure(each)
        width, height = map(float, re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)[0])
        starts = [float(x) for x in re.findall(r"translate\(([\d.]+) ", text)]
        assert max(starts) + 0.67 * 6 * len(each["class_names"][1][:20]) < width
        sizes.append((width, height))
    (wide, high), (narrow, low) = sizes
    assert narrow < wide - 100
    assert low < high - 60, "short names leave no empty room"


def test_on_a_map_of_thousands_a_point_is_as_wide_as_a_pixel():
    classes = 1_500
    confusion = np.zeros((classes, classes))
    confusion[100, 900] = confusion[1_499, 0] = 1
    result = {"class_names": list(map(str, range(classes))), "confusion": confusion, "no_answer": np.zeros(classes)}
    address = re.search(r'base64,([^"]+)"', confusion_map(result))[1]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(address))))
    shown = pixels[..., 3] > 0
    assert shown[98:103, 898:903].all()
    assert shown[1_497:, :3].all()
    assert shown.sum() == 25 + 9


def test_the_shares_of_chosen_classes_are_those_of_all_their_images():
    result = {"class_names": ["a", "b", "c"], "confusion": [[5, 3, 2], [0, 4, 0], [0, 0, 1]], "no_answer": [1, 0, 0]}
    part = part_of(result, [0, 2])
    assert part == {"class_names": ["a", "c"], "confusion": [[5, 2], [0, 1]], "no_answer": [4, 0]}


def test_a_report_shows_classes_and_wrong_answers_and_is_stored(tmp_path):
    data = ReportData(title="Classes", classified={"Held-out pictures": result_of(3)}, wrong=wrong())
    data.save(tmp_path / "data.npz")
    again = ReportData.load(tmp_path / "data.npz")
    text = render(again)
    assert text == render(data)
    assert "Wrong answers" in text
    assert "The surest 1 of 3 wrong answers." in text
    assert "&lt;dog&gt;/7" in text
    assert "labelled pictures" in text or "images and texts" in text


def test_several_labels_have_their_own_table():
    rng = np.random.default_rng(0)
    targets = (rng.random((50, 3)) < 0.3).astype("float32")
    scored = several_labels(4 * targets - 2 + rng.normal(0, 0.1, (50, 3)), targets, ["a", "b", "c"])
    text = render(ReportData(classified={"Held-out pictures": scored}))
    assert "mean average precision" in text
    assert "100%" in text
