"""Zero-shot classification: probabilities, prompts, what is written and shown, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from diptych.core.data.emoji import HELD_OUT_DESIGNER
from diptych.core.data.emoji.examples import EXAMPLES
from diptych.core.data.ledger import TooManySkipped
from diptych.core.data.sources.reading import Reading
from diptych.core.evaluation.calibration import sigmoid
from diptych.engine.judging.zero_shot_results import best_labels
from diptych.recipes.zero_shot import ZeroShot, classify
from tests.recipes.fake_encoder import FakeEncoder
from tests.recipes.photos import COLOURS as PHOTO_COLOURS
from tests.recipes.photos import write_photos

COLOURS = ("red,green,blue,yellow",)


@pytest.fixture
def photos(tmp_path) -> Path:
    return write_photos(tmp_path / "photos", 20)


def found(tmp_path: Path, encoder: FakeEncoder | None = None, **options) -> dict:
    output = tmp_path / "out" / "results.json"
    assert classify(ZeroShot(output=output, **options), lambda name: encoder or FakeEncoder()) == 0
    return json.loads(output.read_text())


def test_pictures_get_the_labels_that_fit(photos, tmp_path):
    results = found(tmp_path, images=(str(photos),), classes=COLOURS, batch_size=8)
    assert len(results["images"]) == 20
    for number, image in enumerate(results["images"]):
        assert image["best"][0]["label"] == list(PHOTO_COLOURS)[number % 4]
        assert sum(guess["softmax"] for guess in image["best"]) == pytest.approx(1, abs=1e-12)


def test_sigmoid_and_softmax_are_those_of_the_definition():
    cosines = np.array([0.5, -0.2, 0.4], np.float32)
    best = best_labels(cosines, ("a", "b", "c"), FakeEncoder(), top_k=2)
    assert [guess["label"] for guess in best] == ["a", "c"]
    exact = cosines.astype(np.float64)
    shares = np.exp(10 * exact) / np.exp(10 * exact).sum()
    assert [guess["softmax"] for guess in best] == pytest.approx([shares[0], shares[2]], rel=1e-12)
    alone = sigmoid(10 * exact - 3)
    assert [guess["sigmoid"] for guess in best] == pytest.approx([alone[0], alone[2]], rel=1e-12)
    without_bias = best_labels(cosines, ("a", "b", "c"), FakeEncoder(logit_bias=None), top_k=3)
    assert [guess["sigmoid"] for guess in without_bias] == [None] * 3
    assert without_bias[0]["softmax"] == best[0]["softmax"]


class ListeningEncoder(FakeEncoder):
    """Remembers the texts that it embeds."""

    def embed_texts(self, texts, *, batch_size=256):
        self.heard = list(texts)
        return super().embed_texts(texts, batch_size=batch_size)


def test_labels_are_filled_into_templates_and_cleaned_for_siglip_alone(photos, tmp_path):
    options = {"images": (str(photos),), "classes": ("Red Fox,blue",), "templates": ("A photo of a {}.", "{c}!")}
    siglip, clip = ListeningEncoder(), ListeningEncoder(logit_bias=None)
    found(tmp_path, siglip, **options)
    found(tmp_path, clip, **options)
    assert siglip.heard == ["a photo of a red fox", "red fox", "a photo of a blue", "blue"]
    assert clip.heard == ["A photo of a Red Fox.", "Red Fox!", "A photo of a blue.", "blue!"]


def test_files_may_hold_labels_and_templates(photos, tmp_path):
    (tmp_path / "labels.txt").write_text("red\n\nblue\n")
    (tmp_path / "templates.txt").write_text("some {}\n{} things\n")
    encoder = ListeningEncoder()
    results = found(
        tmp_path,
        encoder,
        images=(str(photos / "000.png"), str(photos / "002.png")),
        classes=(str(tmp_path / "labels.txt"), "green"),
        templates=(str(tmp_path / "templates.txt"),),
    )
    assert results["labels"] == ["red", "blue", "green"]
    assert encoder.heard == ["some red", "red things", "some blue", "blue things", "some green", "green things"]
    assert [image["best"][0]["label"] for image in results["images"]] == ["red", "blue"]


def test_another_models_labels_get_general_templates(photos, tmp_path):
    encoder = ListeningEncoder()
    found(tmp_path, encoder, images=(str(photos),), classes=COLOURS, model="somewhere/else")
    assert len(encoder.heard) > 4 * 4
    assert "a photo of a red" in encoder.heard


def test_without_flags_it_looks_at_emoji_by_the_held_out_designer(tmp_path, capsys):
    results = found(tmp_path)
    assert len(results["images"]) == len(EXAMPLES) == len(results["labels"]) == 12
    assert [chr(int(image["key"], 16)) for image in results["images"]] == list(EXAMPLES)
    assert all(json.loads(image["image"])[0] == HELD_OUT_DESIGNER for image in results["images"])
    assert [image["truth"] for image in results["images"]] == results["labels"]
    right = sum(image["best"][0]["label"] == image["truth"] for image in results["images"])
    assert f"{right} of 12 are right" in " ".join(capsys.readouterr().out.split())


def test_bad_images_are_counted_and_do_not_stop_it(photos, tmp_path, capsys):
    (photos / "000.png").write_bytes(b"")
    names = (str(photos / "000.png"), str(photos / "001.png"), str(photos / "nothing.png"))
    results = found(tmp_path, images=names, classes=COLOURS)
    assert results["skipped"] == {"image_empty": 1, "image_missing": 1}
    assert [image["status"] for image in results["images"]] == ["image_empty", "ok", "image_missing"]
    assert [image["key"] for image in results["images"]] == list(names)
    said = capsys.readouterr().out
    assert "image_empty 1" in said
    assert names[2] in said
    with pytest.raises(ValueError, match=r"none of 1 images could be used: image_missing 1 \(/nope\.jpg\)"):
        found(tmp_path, images=("/nope.jpg",), classes=COLOURS)
    with pytest.raises(TooManySkipped, match="--max-skipped"):
        found(tmp_path, images=names, classes=COLOURS, reading=Reading(max_skipped=0.5))


def test_the_limit_is_of_the_records_of_each_data_set(photos, tmp_path, capsys):
    """Of three images of a record two may be bad: that is no share of the records."""
    folder = tmp_path / "several"
    folder.mkdir()
    for name in ("a.png", "a.webp", "a.gif", "b.png"):
        (folder / name).write_bytes((photos / "000.png").read_bytes() if name.endswith("png") else b"no picture")
    options = {"classes": COLOURS, "reading": Reading(max_skipped=0)}
    results = found(tmp_path, images=(str(folder), str(photos)), **options)
    assert results["skipped"] == {"image_format": 2}
    said = capsys.readouterr().out
    assert f"{folder}: 2 of 2 records read\n  left out          2  image_format: a.gif, image 1, a.gif, image 3" in said
    (photos / "000.png").write_bytes(b"")
    with pytest.raises(TooManySkipped, match=rf"1 of 20 records of {photos} "):
        found(tmp_path, images=(str(folder), str(photos)), **options)


def test_the_sheet_shows_each_picture_with_its_bars_and_runs_nothing(photos, tmp_path):
    found(tmp_path, images=(str(photos),), classes=("red,<b>blue,green",), top_k=2)
    page = (tmp_path / "out" / "results.html").read_text()
    assert page.count('<li class="shown"') == page.count("data:image/webp") == 20
    assert page.count('class="guess first"') == 20
    assert page.count('class="guess"') == 20
    assert page.count('class="bar-of text"') == 40
    assert "&lt;b&gt;blue" in page
    assert "<b>blue" not in page
    assert "<script" not in page


def test_a_wrong_answer_is_marked_wrong(tmp_path):
    results = found(tmp_path, classes=("dog face,cat face",))
    page = (tmp_path / "out" / "results.html").read_text()
    verdicts = [image["best"][0]["label"] == image["truth"] for image in results["images"] if "truth" in image]
    assert len(verdicts) == 2
    assert page.count('class="verdict right"') == sum(verdicts)
    assert page.count('class="verdict wrong"') == 2 - sum(verdicts)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"images": ("photos",)}, "--classes"),
        ({"classes": ("cat,dog,cat",)}, "more than once"),
        ({"classes": ("cat",)}, "two or more"),
        ({"templates": ("{} and {}",)}, "exactly one"),
    ],
)
def test_what_cannot_be_classified_is_refused(tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        found(tmp_path, **options)


def test_nothing_usable_is_an_error(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"")
    with pytest.raises(ValueError, match="image_empty 1"):
        found(tmp_path, images=(str(tmp_path / "bad.png"),), classes=COLOURS)
