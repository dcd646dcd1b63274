"""Judgement of frozen features: pictures with known classes and depths, scenes, and known boxes."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from diptych.core.data.emoji.concepts import SCENE_TOKENIZER_PATH
from diptych.core.data.examples.captioning import CaptionTargets
from diptych.core.data.sources.segmentation import IGNORE
from diptych.core.report.dense_page import DensePictures
from diptych.engine.judging.dense import probes as dense_probes
from diptych.engine.judging.dense.probes import locate
from diptych.engine.judging.dense.scenes import Phrase
from diptych.engine.judging.dense.tasks import square_towers
from diptych.engine.training.targets_file import write_targets
from diptych.models import CLIP, NaFlexVisionConfig, SigLIP, SigLIPConfig, TextConfig, VisionConfig
from diptych.models.captioner.config import CaptionerConfig
from diptych.models.captioner.model import Captioner
from diptych.recipes import dense as recipe
from diptych.recipes.dense import Dense, dense
from tests.core.data.pictures import encoded
from tests.recipes.export_models import clip

TOWER = {"width": 24, "depth": 1, "mlp_dim": 32, "num_heads": 2}
TEXT = TextConfig(**TOWER, vocab_size=16, context_length=4)
SQUARE = SigLIPConfig(vision=VisionConfig(**TOWER, patch_size=8, image_size=32), text=TEXT)
NAFLEX = SigLIPConfig(vision=NaFlexVisionConfig(**TOWER, patch_size=8, position_grid=4), text=TEXT)
COLOURS = np.array([(120, 120, 120), (210, 40, 40), (40, 60, 210)], np.uint8)
CLASSES = np.array([0, 5, 20], np.uint8)  # of VOC
DEPTHS = np.array([0, 1500, 4000])  # millimetres; 0 is not known
BLOCK, BLOCKS = 32, 2
FITTED, JUDGED = 24, 10


def blocks(seed: int) -> np.ndarray:
    """Places in COLOURS, [64, 64], in blocks of two patches a side."""
    chosen = np.random.default_rng(seed).integers(0, len(COLOURS), (BLOCKS, BLOCKS))
    return np.kron(chosen, np.ones((BLOCK, BLOCK), int))


def picture(places: np.ndarray) -> bytes:
    return encoded(Image.fromarray(COLOURS[places]), "PNG")


def write(path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def write_sets(root, *, told: bool = True):
    """VOC's layout, and depths; the maps are those of other pictures where they are not told."""
    for split, voc_split, seeds in (("train", "train", range(FITTED)), ("test", "val", range(100, 100 + JUDGED))):
        for seed in seeds:
            places = blocks(seed)
            known = places if told else blocks(seed + 1000)
            labels = Image.fromarray(CLASSES[known])
            depths = Image.fromarray(DEPTHS[known].astype(np.uint16))
            write(root / "voc" / "JPEGImages" / f"{seed}.jpg", picture(places))
            write(root / "voc" / "SegmentationClass" / f"{seed}.png", encoded(labels, "PNG"))
            write(root / "depth" / "images" / split / f"{seed}.png", picture(places))
            write(root / "depth" / "depths" / split / f"{seed}.png", encoded(depths, "PNG"))
        listed = "\n".join(map(str, seeds))
        write(root / "voc" / "ImageSets" / "Segmentation" / f"{voc_split}.txt", listed.encode())
    for split, seeds in (("train", range(6)), ("test", range(6, 9))):
        for name, place in (("red", 1), ("blue", 2)):
            for seed in seeds:
                places = np.where(blocks(seed) == 0, 0, place)
                write(root / "classes" / split / name / f"{seed}.png", picture(places))
    return root


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    return write_sets(tmp_path_factory.mktemp("sets"))


def judged(root, output, config=SQUARE, **options):
    options = {"map_size": 64, "output": output / "out" / "results.json"} | options
    model = SigLIP(config)
    assert dense(Dense(**options), lambda name: SimpleNamespace(model=model)) == 0
    return json.loads((output / "out" / "results.json").read_text())


def own_data(root) -> dict:
    return {
        "segmentation": f"voc:{root / 'voc'}",
        "depth": root / "depth",
        "neighbours": str(root / "classes"),
    }


@pytest.fixture(scope="module")
def found(sets, tmp_path_factory):
    output = tmp_path_factory.mktemp("found")
    return judged(sets, output, **own_data(sets)), output / "out"


def test_classes_and_depths_that_are_colours_are_told(found):
    results = found[0]["results"]
    segmentation = results["segmentation"]["voc, val"]
    assert segmentation["mean_iou"] > 0.8
    assert {row["class"] for row in segmentation["per_class"] if row["iou"] is not None} == {
        "background",
        "bottle",
        "tv monitor",
    }
    depth = results["depth"]["depth, test"]
    assert depth["rmse"] < depth["chance"] / 3
    assert depth["pixels"] == sum(np.count_nonzero(blocks(seed)) for seed in range(100, 100 + JUDGED))
    assert results["neighbours"]["classes, test"]["accuracy"] == 1
    assert segmentation["train_images"] == depth["train_images"] == FITTED
    assert segmentation["images"] == depth["images"] == JUDGED


def test_maps_of_other_pictures_are_not(tmp_path):
    root = write_sets(tmp_path, told=False)
    options = own_data(root)
    del options["neighbours"]
    results = judged(root, tmp_path, **options)["results"]
    assert results["segmentation"]["voc, val"]["mean_iou"] < 0.45
    assert results["depth"]["depth, test"]["rmse"] > 0.9 * results["depth"]["depth, test"]["chance"]


def test_results_say_what_was_judged_and_the_page_shows_it(found):
    results, folder = found
    assert results["format"] == recipe.FORMAT
    assert results["model"] == {
        "name": "emoji_36_languages",
        "parameters": SigLIP(SQUARE).count_params(),
        "image_size": 32,
        "patches": 16,
    }
    assert results["options"]["map_size"] == 64
    page = (folder / "results.html").read_text()
    for words in ("Segmentation", "Depth", "Nearest neighbours", "voc, val", "16 patches of 32 px"):
        assert words in page
    assert page.count("<img") == 2 * JUDGED + 3 * JUDGED
    assert "<script" not in page
    assert sorted(path.name for path in folder.iterdir()) == ["results.html", "results.json"]  # no features are left


@pytest.mark.parametrize(
    ("config", "size", "patches"), [(SQUARE, 64, [8, 8]), (NAFLEX, None, [4, 4]), (NAFLEX, 16, [2, 2])]
)
def test_a_model_looks_at_squares_of_the_size_asked_for(sets, tmp_path, config, size, patches):
    results = judged(sets, tmp_path, config, segmentation=f"voc:{sets / 'voc'}", image_size=size, pooled=True)[
        "results"
    ]
    assert results["segmentation"]["voc, val"]["patches"] == patches
    assert results["segmentation"]["voc, val"]["pooled"]


def test_a_square_tower_of_the_size_asked_for_stays_as_it_is():
    model = SigLIP(SQUARE)
    assert square_towers(model) is square_towers(model, 32) is model


def test_ade_is_read_and_what_is_not_labelled_does_not_count(tmp_path):
    for split, seeds in (("training", range(8)), ("validation", range(8, 10))):
        for seed in seeds:
            places = blocks(seed)
            write(tmp_path / "ade" / "images" / split / f"{seed}.jpg", picture(places))
            labels = encoded(Image.fromarray(places.astype(np.uint8)), "PNG")  # 0 is not labelled, 1 and 2 are classes
            write(tmp_path / "ade" / "annotations" / split / f"{seed}.png", labels)
    results = judged(tmp_path, tmp_path, segmentation=f"ade:{tmp_path / 'ade'}")["results"]
    rows = results["segmentation"]["ade, validation"]["per_class"]
    assert [row["class"] for row in rows if row["iou"] is not None] == ["class 1", "class 2"]
    assert len(rows) < IGNORE


def test_damaged_pictures_are_left_out_and_counted(sets, tmp_path, capsys):
    root = write_sets(tmp_path)
    (root / "voc" / "JPEGImages" / "3.jpg").write_bytes(b"no picture")
    (root / "voc" / "JPEGImages" / "101.jpg").write_bytes(b"")
    results = judged(root, tmp_path, segmentation=f"voc:{root / 'voc'}")["results"]
    assert results["segmentation"]["voc, val"]["train_images"] == FITTED - 1
    assert results["segmentation"]["voc, val"]["images"] == JUDGED - 1
    said = capsys.readouterr().out
    assert f"{FITTED - 1} of {FITTED} records read\n  skipped           1  image_format: 3\n" in said
    assert f"{JUDGED - 1} of {JUDGED} records read\n  skipped           1  image_empty: 101\n" in said
    for seed in range(FITTED):
        (root / "voc" / "JPEGImages" / f"{seed}.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=f"image_empty {FITTED}"):
        judged(root, tmp_path, segmentation=f"voc:{root / 'voc'}")


def test_of_a_large_training_set_random_pictures_are_read(sets, tmp_path, capsys):
    options = {"segmentation": f"voc:{sets / 'voc'}", "max_train_images": 7}
    first = judged(sets, tmp_path, **options)["results"]
    assert first["segmentation"]["voc, val"]["train_images"] == 7
    assert f"7 of {FITTED} pictures, chosen at random" in capsys.readouterr().out
    assert judged(sets, tmp_path, **options)["results"] == first
    other = judged(sets, tmp_path, **options, seed=1)["results"]
    assert other["segmentation"]["voc, val"]["loss"] != first["segmentation"]["voc, val"]["loss"]


@pytest.fixture(scope="module")
def with_decoder(tmp_path_factory):
    """The model folder of a stage, its weights fresh."""
    folder = tmp_path_factory.mktemp("stage") / "model"
    targets = CaptionTargets(tokenizer_path=SCENE_TOKENIZER_PATH, context_length=24)
    config = CaptionerConfig(**{**TOWER, "depth": 1}, encoder_width=TOWER["width"], vocab_size=2048, context_length=24)
    Captioner(config).save_to(folder)
    write_targets(folder, targets)
    (folder / SCENE_TOKENIZER_PATH.name.replace("scene_", "")).write_bytes(SCENE_TOKENIZER_PATH.read_bytes())
    return folder


def references(root, *, of=("val", "val", "testB", "train")):
    entries = [
        {"image": f"{place}.png", "size": [64, 64], "box": [8, 8, 24, 16], "split": split, "sentences": ["one", "two"]}
        for place, split in enumerate(of)
    ]
    for place in range(len(of)):
        write(root / "pictures" / f"{place}.png", picture(blocks(place)))
    (root / "refcoco.json").write_text(json.dumps(entries))
    return {"refcoco": (str(root / "refcoco.json"),), "refcoco_images": root / "pictures"}


def test_a_decoder_is_asked_for_the_boxes_of_held_out_phrases(with_decoder, tmp_path):
    results = judged(tmp_path, tmp_path, model=str(with_decoder), **references(tmp_path))["results"]
    sets = results["localization"]
    assert {name: numbers["phrases"] for name, numbers in sets.items()} == {"refcoco, val": 4, "refcoco, testB": 2}
    page = (tmp_path / "out" / "results.html").read_text()
    assert page.count('class="boxed"') == 6
    assert "where the decoder finds phrases" in page


def test_without_data_it_looks_at_scenes(with_decoder, tmp_path, monkeypatch):
    monkeypatch.setattr(dense_probes, "FITTED", 30)
    monkeypatch.setattr(dense_probes, "JUDGED", 20)
    results = judged(tmp_path, tmp_path, model=str(with_decoder.parent))["results"]
    assert list(results) == ["segmentation", "depth", "neighbours", "localization"]
    assert results["segmentation"]["new scenes"]["train_images"] == 30
    assert results["depth"]["new scenes"]["images"] == results["neighbours"]["new scenes"]["images"] == 20
    assert results["localization"]["new scenes"]["phrases"] > 20
    without = judged(tmp_path, tmp_path)["results"]
    assert list(without) == ["segmentation", "depth", "neighbours"]
    assert without["segmentation"] == results["segmentation"]


class Oracle:
    """Answers with the box that is written into a picture's corner, moved by so much."""

    def __init__(self, moved: float = 0.0):
        self.moved, self.seen = moved, []

    def __call__(self, question, pictures, arguments, places):
        assert question == "find"
        self.seen.append(len(pictures))
        boxes = [pictures[place][0, :4, 0] / 100 + self.moved for place in places]
        return [None if each["text"] == "nothing" else tuple(box) for each, box in zip(arguments, boxes, strict=True)]


def marked(number: int) -> np.ndarray:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[0, :4, 0] = (10 + number, 10, 40 + number, 50)
    return pixels


PHRASES = [
    Phrase(scene=number, text=text, box=(0.1 + number / 100, 0.1, 0.4 + number / 100, 0.5))
    for number in (0, 2, 3, 5, 7)
    for text in ("thing", "other")
]


@pytest.mark.parametrize("at_once", [1, 2, 100])
def test_each_phrase_is_asked_of_its_own_picture(at_once):
    oracle, told = Oracle(), []
    result, located = locate(oracle, marked, PHRASES, at_once=at_once, told=lambda done, new: told.append((done, new)))
    assert result["accuracy"] == 1
    assert result["mean_iou"] == pytest.approx(1)
    assert [each.phrase for each in located] == ["thing", "other"] * 5
    assert max(oracle.seen) <= at_once
    assert told[-1][0] == sum(new for _, new in told) == len(PHRASES)
    assert locate(Oracle(0.3), marked, PHRASES, at_once=at_once)[0]["accuracy"] == 0


def test_an_answer_without_a_box_is_wrong_and_the_first_are_shown():
    phrases = [replace(phrase, text="nothing") for phrase in PHRASES] * 2
    phrases.sort(key=lambda phrase: phrase.scene)
    result, located = locate(Oracle(), marked, phrases, at_once=3)
    assert result["unparsable"] == len(phrases)
    assert result["accuracy"] == 0
    assert len(located) == dense_probes.SHOWN
    assert all(each.predicted is None for each in located)
    DensePictures(located=located)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"segmentation": "coco:there"}, "takes voc:FOLDER or ade:FOLDER, got 'coco:there'"),
        ({"segmentation": "voc:nowhere"}, "no folder nowhere"),
        ({"depth": Path("nowhere")}, "no folder nowhere"),
        ({"neighbours": "voc"}, "captions nor classes|training split"),
        ({"refcoco": ("refcoco.json",)}, "--refcoco-images"),
        ({"refcoco": ("refcoco.json",), "refcoco_images": Path("elsewhere")}, "no folder elsewhere"),
        ({"refcoco": ("refcoco.json",), "refcoco_images": Path("voc")}, "the first voc/0.png"),
        ({"refcoco": ("train.json",), "refcoco_images": Path("pictures")}, "no phrase of val"),
        ({"refcoco": ("refcoco.json",), "refcoco_images": Path("pictures")}, "no captioner"),
    ],
)
def test_what_cannot_be_judged_is_refused(sets, tmp_path, monkeypatch, options, words):
    references(tmp_path, of=("train",))
    (tmp_path / "refcoco.json").rename(tmp_path / "train.json")
    references(tmp_path)
    (tmp_path / "voc").symlink_to(sets / "voc")
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        judged(tmp_path, tmp_path, **options)
    assert not (tmp_path / "out" / "results.json").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image_size": 0}, "--image-size must be at least 1"),
        ({"map_size": 0}, "--map-size"),
        ({"max_train_images": 0}, "--max-train-images"),
        ({"depth_scale": 0.0}, "--depth-scale must be above 0"),
        ({"seed": -1}, "--seed"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Dense(**options)


def test_a_model_of_another_kind_is_refused():
    model = clip().model
    assert isinstance(model, CLIP)
    with pytest.raises(ValueError, match="without a class token, got a CLIP"):
        square_towers(model)
    with pytest.raises(ValueError, match="class token"):
        square_towers(SigLIP(replace(SQUARE, vision=replace(SQUARE.vision, pooling="cls"))))


def test_the_command_runs_with_the_model_that_diptych_ships(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(dense_probes, "FITTED", 40)
    monkeypatch.setattr(dense_probes, "JUDGED", 20)
    assert recipe.main(["--output", str(tmp_path / "results.json")]) == 0
    assert "segmentation, new scenes: mean_iou" in capsys.readouterr().out
    assert recipe.main(["--segmentation", "voc:nowhere", "--output", str(tmp_path / "results.json")]) == 1
    assert "no folder nowhere" in capsys.readouterr().err
