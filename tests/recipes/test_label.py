"""Labelling as people do it: boxes found and counted, stopped anywhere, read by training, misused."""

import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from diptych.core.data.sources.coco import CocoRegionSource
from diptych.core.data.sources.open import open_source
from diptych.core.data.sources.phrases import CATEGORIES
from diptych.core.data.sources.region_labels import LabelledSource
from diptych.engine.failures import exit_status
from diptych.engine.labelling.crop_scorer import CROPS_AT_ONCE, PHRASES_AT_ONCE, CropScorer, in_square
from diptych.recipes import label as recipe
from diptych.recipes.label import Label, counted, label, sentences
from tests.core.data.pictures import encoded
from tests.recipes.fake_encoder import DIRECTIONS, FakeEncoder

COLOURS = {"red": (220, 40, 130), "green": (40, 170, 60), "blue": (40, 70, 220)}
SIDE, THING = 64, 20


class CropEncoder(FakeEncoder):
    """Takes pixels, keeps the crops' shapes and the texts it was asked for."""

    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        self.asked: list[list[str]] = []

    def embed_images(self, items: Sequence[np.ndarray], *, batch_size: int = 64) -> np.ndarray:
        return super().embed_images([encoded(item) for item in items])

    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> np.ndarray:
        self.asked.append(list(texts))
        return super().embed_texts(texts)


def places(seed: int) -> dict[str, tuple[int, int]]:
    """Corners of a red and a blue thing, in different halves."""
    top, left = np.random.default_rng(seed).integers(2, SIDE - THING - 2, (2, 2))
    return {"red": (int(top[0]), 4), "blue": (int(left[0]), SIDE - THING - 4)}


@pytest.fixture
def photos(tmp_path):
    """Six pictures with their boxes in COCO's layout, one of them damaged."""
    folder = tmp_path / "photos"
    folder.mkdir()
    images, annotations, rows = [], [], []
    for number in range(6):
        pixels = np.full((SIDE, SIDE, 3), 235, np.uint8)
        name = f"{number}.png"
        for category, (colour, (top, left)) in enumerate(places(number).items()):
            pixels[top : top + THING, left : left + THING] = COLOURS[colour]
            box = [left, top, THING, THING]
            annotations.append({"image_id": number, "bbox": box, "category_id": category})
        Image.fromarray(pixels).save(folder / name)
        caption = "red, blue"
        images.append({"id": number, "file_name": name, "height": SIDE, "width": SIDE})
        annotations.append({"image_id": number, "caption": caption})
        rows.append({"file_name": name, "caption": caption})
    (folder / "4.png").write_bytes(b"no picture")
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = [{"id": place, "name": colour} for place, colour in enumerate(places(0))]
    boxes = {"images": images, "annotations": annotations, "categories": names}
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    return folder


def options(photos, **changes) -> Label:
    settings = {"data": f"coco:{photos.parent / 'boxes.json'}:{photos}", "output": photos.parent / "out" / "r.jsonl"}
    return Label(**settings | changes)


def run(chosen: Label, encoder: FakeEncoder | None = None) -> int:
    return label(chosen, lambda name: encoder or CropEncoder())


def test_boxes_are_found_named_counted_and_read_by_training(photos, capsys):
    chosen = options(photos)
    assert run(chosen) == 0
    said = capsys.readouterr().out
    assert (
        "10 boxes in 5 pictures, 1 more could not be used. Of 10 boxes that were known before, 10 (100%) were found at "
        "an IoU of 0.5, "
        "10 (100%) under their own names." in said
    )
    spec = f"labelled:{chosen.output}:{chosen.data}"
    assert f'--train-data "{spec}"' in said
    labelled = open_source(spec)
    assert isinstance(labelled, LabelledSource)
    for region in labelled.record(2).regions:
        top, left = places(2)[region.text]
        np.testing.assert_allclose(np.array(region.box) * SIDE, (top, left, top + THING, left + THING), atol=0.51)
    page = chosen.output.with_suffix(".html").read_text()
    assert page.count('class="hit"') == 10
    assert ">red<" in page
    assert "<script" not in page
    assert run(chosen) == 0  # again: nothing is left to do


def test_without_known_boxes_none_are_counted(photos, capsys):
    chosen = options(photos, data=str(photos))
    assert run(chosen) == 0
    assert "10 boxes in 5 pictures, 1 more could not be used.\n" in capsys.readouterr().out
    assert "IoU" not in chosen.output.with_suffix(".html").read_text()


def test_categories_alone_are_looked_for(photos):
    chosen = options(photos, categories=("blue balloon", "common", "blue balloon"), max_ngram=0)
    run(chosen)
    header = json.loads(chosen.output.read_text().splitlines()[0])
    assert header["categories"] == list(dict.fromkeys(["blue balloon", *CATEGORIES]))
    found = {region.text for region in open_source(f"labelled:{chosen.output}:{chosen.data}").record(0).regions}
    assert "blue balloon" in found
    assert not found & {"red", "blue"}


def test_wrong_boxes_and_names_do_not_count(photos, tmp_path):
    source = CocoRegionSource(photos.parent / "boxes.json", photos)
    header = json.dumps({"source": source.fingerprint()})
    (top, left), _ = places(0).values()
    box = [top / SIDE, left / SIDE, (top + THING) / SIDE, (left + THING) / SIDE]
    half = [box[0], box[1], box[2], (box[1] + box[3]) / 2]  # an IoU of exactly 1/2
    less = [box[0], box[1], box[2], box[1] + 0.49 * (box[3] - box[1])]

    def counts(*regions) -> tuple[int, int]:
        lines = [header, json.dumps({"index": 0, "regions": [[*region, "und", 1.0] for region in regions]})]
        lines += [json.dumps({"index": index, "regions": []}) for index in range(1, 6)]
        (tmp_path / "made.jsonl").write_text("\n".join(lines) + "\n")
        found = counted(LabelledSource(source, tmp_path / "made.jsonl"))
        assert found["known"] == 12
        return found["found"], found["named"]

    assert counts() == (0, 0)
    assert counts((box, "Red")) == (1, 1)
    assert counts((half, "red")) == (1, 1)
    assert counts((less, "red")) == (0, 0)
    assert counts((box, "blue")) == (1, 0)
    assert counts((box, "blue"), (box, "red")) == (1, 1)
    assert counts(([0.0, 0.0, 1.0, 1.0], "red")) == (0, 0)


def test_stopped_it_goes_on_to_the_same_file(photos, capsys):
    whole = options(photos, output=photos.parent / "whole.jsonl")
    run(whole)
    chosen = options(photos, batch_size=1)

    class Interrupted(CropEncoder):
        def embed_images(self, items, *, batch_size=64):
            if len(self.image_embedder.batches) == 1:
                os.kill(os.getpid(), signal.SIGINT)
            return super().embed_images(items)

    assert run(chosen, Interrupted()) == 130
    assert "Stopped by SIGINT. The same command goes on from there." in capsys.readouterr().out
    assert len(chosen.output.read_text().splitlines()) == 3  # settings, and the two pictures that were done
    again = CropEncoder()
    assert run(chosen, again) == 0
    assert len(again.image_embedder.batches) == 3
    assert chosen.output.read_bytes() == whole.output.read_bytes()


def test_several_processes_share_the_work(photos, capsys, monkeypatch):
    whole, chosen = options(photos, output=photos.parent / "whole.jsonl"), options(photos)
    run(whole)
    for number in range(2):
        assert run(replace(chosen, num_processes=2, process_id=number)) == 0
        assert f"r.jsonl.part-{number}-of-2: done" in capsys.readouterr().out
    assert run(chosen) == 0
    assert "10 boxes in 5 pictures, 1 more could not be used" in capsys.readouterr().out
    assert chosen.output.read_bytes() == whole.output.read_bytes()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert exit_status(lambda: run(chosen)) == 1
    assert "(WORLD_SIZE=2), which would all write the same file" in capsys.readouterr().err


def test_another_model_or_threshold_needs_another_file(photos, capsys):
    run(options(photos))
    for other, encoder in ((options(photos, threshold=0.5), None), (options(photos), CropEncoder("second"))):
        assert exit_status(lambda other=other, encoder=encoder: run(other, encoder)) == 1
        assert "was begun with other settings" in capsys.readouterr().err


# The scorer


def crop(colour: str, height: int = 10, width: int = 20) -> np.ndarray:
    return np.full((height, width, 3), COLOURS[colour], np.uint8)


def test_scores_hang_on_crop_and_phrase_alone():
    scorer = CropScorer(CropEncoder())
    phrases = ["red", "green", "blue", "a table"]
    crops = [crop("red"), crop("blue", 31, 3), crop("green")]
    scores = scorer(crops, phrases)
    assert scores.shape == (3, 4)
    assert ((scores > 0) & (scores < 1)).all()
    assert scores.argmax(axis=1).tolist() == [0, 2, 1]
    np.testing.assert_allclose(scores[:, 3], 0.5, atol=1e-6)  # all categories are one direction to this model
    for place, one in enumerate(crops):
        np.testing.assert_allclose(scorer([one], phrases[::-1])[0, ::-1], scores[place], rtol=1e-6)


def test_batches_have_one_shape_and_phrases_are_embedded_once(monkeypatch):
    encoder = CropEncoder()
    scorer = CropScorer(encoder)
    for count in (1, 3, 9):
        scorer([crop("red")] * count, ["red", "blue", f"phrase {count}"])
    assert {size % CROPS_AT_ONCE for size in encoder.image_embedder.batches} == {0}
    assert {len(texts) % PHRASES_AT_ONCE for texts in encoder.asked} == {0}
    fresh = [list(dict.fromkeys(texts)) for texts in encoder.asked[1:]]
    assert fresh == [["red", "blue", "phrase 1"], ["phrase 3"], ["phrase 9"]]
    monkeypatch.setattr("diptych.engine.labelling.crop_scorer._REMEMBERED_PHRASES", 5)
    forgetful = CropScorer(CropEncoder())
    for number in range(4):
        phrases = ["red", f"blue {number}", "green"]
        np.testing.assert_allclose(forgetful([crop("red")], phrases), scorer([crop("red")], phrases), rtol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(10, 20), (1, 1), (33, 2)])
def test_a_crop_keeps_its_shape_in_its_square(height, width):
    framed = in_square(crop("blue", height, width))
    assert framed.shape[0] == framed.shape[1] >= max(height, width)
    inside = (framed == COLOURS["blue"]).all(axis=2)
    assert inside.sum() == height * width
    assert (framed[~inside] == 255).all()


def test_the_scorers_name_follows_the_model():
    assert CropScorer(CropEncoder()).name == CropScorer(CropEncoder()).name != CropScorer(CropEncoder("second")).name


# The command


def test_the_command_runs_on_scenes_with_the_model_that_diptych_ships(tmp_path, capsys):
    assert recipe.main(["--scenes", "30", "--output", str(tmp_path / "regions.jsonl")]) == 0
    said = capsys.readouterr().out
    assert "boxes in 30 pictures. Of" in said
    assert "Train on it" not in said  # scenes bring their own boxes
    lines = [json.loads(line) for line in (tmp_path / "regions.jsonl").read_text().splitlines()[1:]]
    regions = [region for line in lines for region in line["regions"]]
    assert len(lines) == 30
    assert len(regions) > 8
    assert all(len(region[0]) == 4 and region[3] >= 0.3 for region in regions)
    assert (tmp_path / "regions.html").exists()


def test_an_owl_is_asked_for_by_name(photos, monkeypatch, capsys):
    seen = []

    class Owl:
        def __init__(self, model, *, least_score, device):
            seen.append((model, least_score, device))

        def detect(self, pictures, phrases):
            return [[] for _ in pictures]

        def fingerprint(self):
            return "owl"

    monkeypatch.setattr(recipe, "OwlDetector", Owl)
    asked = options(photos, detector="owl:some/name", device="meta", threshold=0.2)
    assert label(asked, lambda name: pytest.fail("a detector needs no towers")) == 0
    assert seen == [("some/name", 0.2, "meta")]
    assert "0 boxes in 5 pictures" in capsys.readouterr().out
    assert "No box was found." in asked.output.with_suffix(".html").read_text()


def test_without_transformers_it_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "transformers", None)
    arguments = ["--detector", "owl:some/name", "--scenes", "3", "--output", str(tmp_path / "regions.jsonl")]
    assert recipe.main(arguments) == 1
    assert "pip install transformers torch" in capsys.readouterr().err
    assert not (tmp_path / "regions.jsonl").exists()


def test_data_that_is_not_there_is_a_sentence(tmp_path, capsys):
    assert recipe.main(["--data", str(tmp_path / "nowhere"), "--output", str(tmp_path / "regions.jsonl")]) == 1
    assert "no file or folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"detector": "yolo"}, "--detector is segments, or owl: and the name of a checkpoint"),
        ({"detector": "owl:"}, "--detector is segments, or owl: and the name of a checkpoint"),
        ({"threshold": 1.5}, r"--threshold must lie in \[0, 1\], got 1.5"),
        ({"max_ngram": 0}, "or 0 with --categories"),
        ({"max_ngram": -1, "categories": ("dog",)}, "--max-ngram must be at least 1"),
        ({"max_regions": 0}, "--max-regions must be at least 1"),
        ({"scenes": 0}, "--scenes must be at least 1"),
        ({"batch_size": 0}, "--batch-size must be at least 1"),
        ({"num_processes": 2}, "got 2 and None"),
        ({"num_processes": 2, "process_id": 2}, "from 0; got 2 and 2"),
        ({"num_processes": 0, "process_id": 0}, "from 0; got 0 and 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        Label(**changes)


def test_few_words_say_what_was_found():
    numbers = {"pictures": 2_000, "regions": 3_456, "bad": 0, "known": 0, "found": 0, "named": 0}
    assert sentences(numbers) == "3,456 boxes in 2,000 pictures."
    assert DIRECTIONS.keys() > COLOURS.keys()
