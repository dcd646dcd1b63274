"""Asking a decoder whose answers are known: about pictures, about scenes, and in ways that are refused."""

import json

import numpy as np
import pytest
from PIL import Image

from diptych.engine.embedding import picture_features
from diptych.engine.training.targets_file import read_targets
from diptych.recipes import caption as recipe
from diptych.recipes.caption import Caption, box_of
from tests.core.data.pictures import pixels
from tests.recipes.scripted_decoder import BOX, CAPTION, DESCRIPTION, NAFLEX, PHRASE, TARGETS, save_stage

SCENES = 6


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(picture_features, "BATCH", 16)


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    return save_stage(tmp_path_factory.mktemp("run") / "trunk" / "model")


@pytest.fixture
def photos(tmp_path) -> list[str]:
    paths = []
    for seed, (height, width) in enumerate(((40, 60), (33, 20))):
        Image.fromarray(pixels(seed, height, width)).save(tmp_path / f"{seed}.png")
        paths.append(str(tmp_path / f"{seed}.png"))
    return paths


def ask(stage, tmp_path, *arguments: str, status: int = 0) -> dict:
    output = tmp_path / "out" / "results.json"
    assert recipe.main(["--model", str(stage), "--output", str(output), *arguments]) == status
    return json.loads(output.read_text()) if status == 0 else {}


def check_answers(results: dict, photos: list[str]) -> None:
    assert [answer["picture"] for answer in results["answers"]] == photos
    for answer in results["answers"]:
        assert answer["caption"] == CAPTION
        (found,) = answer["found"]
        assert found["text"] == PHRASE
        np.testing.assert_allclose(found["box"], BOX, atol=0.5 / (TARGETS.bins - 1))
        assert [(told["box"], told["text"]) for told in answer["described"]] == [
            (list(BOX), DESCRIPTION),
            ([0.1, 0.2, 0.7, 0.8], DESCRIPTION),
        ]
    assert "localization" not in results  # nobody knows the true boxes


def test_pictures_are_captioned_searched_and_described(stage, photos, tmp_path, capsys):
    asked = ("--images", *photos, "--find", PHRASE, "--describe", "0.1 0.2 0.6 0.9", "0.1, 0.2, 0.7, 0.8")
    check_answers(ask(stage, tmp_path, *asked), photos)
    said = capsys.readouterr().out
    for words in (f"{photos[1]}: {CAPTION}", f"{PHRASE}: 0.10 0.20 0.60 0.90", f"0.1 0.2 0.7 0.8: {DESCRIPTION}"):
        assert words in said
    page = (tmp_path / "out" / "results.html").read_text()
    assert page.count('class="boxed"') == 2
    assert f"0.1 0.2 0.7 0.8: {DESCRIPTION}" in page
    assert "<script" not in page


def test_a_naflex_stage_is_asked_in_the_same_way(photos, tmp_path):
    stage = save_stage(tmp_path / "naflex" / "model", NAFLEX)
    asked = ("--images", *photos, "--find", PHRASE, "--describe", "0.1 0.2 0.6 0.9", "0.1 0.2 0.7 0.8")
    check_answers(ask(stage, tmp_path, *asked), photos)


def test_pictures_are_captioned_alone_where_nothing_is_asked(stage, photos, tmp_path):
    results = ask(stage, tmp_path, "--images", photos[0])
    assert results["answers"] == [{"picture": photos[0], "caption": CAPTION, "found": [], "described": []}]
    assert 'class="boxed"' not in (tmp_path / "out" / "results.html").read_text()


def test_without_pictures_it_looks_at_scenes_whose_boxes_are_known(stage, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(recipe, "SCENES_SHOWN", SCENES)
    results = ask(stage, tmp_path, "--find", PHRASE)
    answers = results["answers"]
    assert len(answers) == SCENES
    assert {answer["caption"] for answer in answers} == {CAPTION}
    assert all(answer["found"][-1]["text"] == PHRASE and answer["found"][-1]["box"] for answer in answers)
    known = sum(len(answer["found"]) - 1 for answer in answers)
    assert results["localization"]["phrases"] == known > SCENES
    # The names of things are shorter than PHRASE: what the decoder writes after their prompts is no box.
    assert results["localization"]["unparsable"] == known
    assert results["localization"]["accuracy"] == 0
    assert f"Acc@0.5 of {known} phrases: 0.0%" in capsys.readouterr().out
    assert (tmp_path / "out" / "results.html").read_text().count('class="boxed"') == known + SCENES


def test_drawn_words_are_the_likeliest_where_all_others_are_cut_off(stage, photos, tmp_path):
    """Logits differ by 8: at a low temperature the likeliest is certain, at a high one nothing is."""
    results = ask(stage, tmp_path, "--images", photos[0], "--temperature", "0.2", "--top-p", "0.5")
    assert results["answers"][0]["caption"] == CAPTION
    hot = ask(stage, tmp_path, "--images", photos[0], "--temperature", "100", "--top-p", "1")
    assert hot["answers"][0]["caption"] != CAPTION


def test_targets_are_those_of_the_stage(stage):
    loaded = read_targets(stage)
    for name in ("context_length", "bins", "order", "prompts", "separator"):
        assert getattr(loaded, name) == getattr(TARGETS, name)
    assert loaded.tokenizer_path.parent == stage
    assert loaded.tokenizer.fingerprint() == TARGETS.tokenizer.fingerprint()


@pytest.mark.parametrize("decoder", [False, None])
def test_a_folder_without_a_decoder_is_refused(tmp_path, capsys, decoder):
    folder = tmp_path / "model" if decoder is None else save_stage(tmp_path / "model", decoder=False)
    ask(folder, tmp_path, status=1)
    said = capsys.readouterr().err
    assert f"{folder} holds no decoder: expected captioner.json and targets.json" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1 2 3", "takes boxes like"),
        ("left top", "takes boxes like"),
        ("", "takes boxes like"),
        ("0.5 0.1 0.4 0.9", "ymin < ymax and xmin < xmax"),
        ("0.1 0.9 0.4 0.9", "ymin < ymax and xmin < xmax"),
        ("0 0 10 10", r"in \[0, 1\]"),
        ("nan 0 1 1", r"in \[0, 1\]"),
    ],
)
def test_a_box_that_is_none_is_refused(text, words):
    with pytest.raises(ValueError, match=words):
        box_of(text)


def test_a_wrong_box_or_picture_ends_in_a_sentence(stage, photos, tmp_path, capsys):
    ask(stage, tmp_path, "--images", photos[0], "--describe", "0.9 0.9 0.1 0.1", status=1)
    assert "A box is ymin xmin ymax xmax in [0, 1]" in capsys.readouterr().err
    ask(stage, tmp_path, "--images", str(tmp_path / "nowhere.png"), status=1)
    assert "nowhere.png" in capsys.readouterr().err
    (tmp_path / "page.png").write_bytes(b"<!doctype html>")
    ask(stage, tmp_path, "--images", str(tmp_path / "page.png"), status=1)
    assert "image_format 1 (" in (told := capsys.readouterr().err)
    assert "page.png" in told
    assert not (tmp_path / "out").exists()
    results = ask(stage, tmp_path, "--images", str(tmp_path / "page.png"), photos[0])
    assert [answer["picture"] for answer in results["answers"]] == [photos[0]]
    assert "page.png" in capsys.readouterr().out


def test_boxes_are_typed_with_or_without_commas():
    assert box_of("0,0.25, 1 1.0") == (0.0, 0.25, 1.0, 1.0)
    assert Caption().describe == ()
