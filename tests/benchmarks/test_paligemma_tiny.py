"""The tiny PaliGemma beside its baselines: the recipe takes its flags, its table and page say what was found."""

import json

import keras
import numpy as np
import pytest

from benchmarks import paligemma_tiny as benchmark
from benchmarks.paligemma_tiny_baselines import QuestionsAsked, nearest_answers, usual_answer
from benchmarks.paligemma_tiny_page import write_tiny_page
from diptych.core.data.detections import parse_detections
from diptych.core.training.recipe import Data
from diptych.core.training.term_options import Prompted
from diptych.engine.command_line import parse_recipe
from diptych.engine.datasets.questions import questions
from diptych.recipes import paligemma

pytestmark = pytest.mark.skipif(keras.config.backend() != "jax", reason="nothing in it depends on the backend")
BASELINES = {"usual answer": {"name, new designer": 0.1}, "nearest": {"name, new designer": 0.25}}
ROWS = [
    {"name": arm.name, "way": arm.way, "seed": arm.seed, "scores": {"name, new designer": 0.5 + arm.seed / 10}}
    for arm in benchmark.arms(2, quick=False)
]


def test_the_recipe_takes_the_flags(tmp_path):
    for arm in benchmark.arms(1, quick=False):
        preset, *words = arm.command(tmp_path)[3:]
        recipe = parse_recipe(paligemma.PRESETS[preset](), words, program="", description="")
        if arm.way == benchmark.BLIND:
            assert recipe.data.train_data == "blank_scene_tasks"
            before = str(recipe.run.run_dir)
        else:
            assert (recipe.data.train_data, recipe.model.pretrained) == ("scene_tasks", before)


def test_the_table_has_means_over_seeds():
    assert benchmark.table(ROWS, BASELINES).splitlines() == [
        "| held out | usual answer | nearest | blind | asked |",
        "|---|---|---|---|---|",
        "| name, new designer | 10.0 | 25.0 | 55.0 ± 63.5 | 55.0 ± 63.5 |",
    ]


def test_the_usual_answer():
    assert usual_answer(["2", "1", "2"]) == "2"
    boxes = ["<loc0000><loc0100><loc0500><loc0600>", "<loc0010><loc0100><loc0500><loc0600>"]
    (found,) = parse_detections(usual_answer([*boxes, boxes[0]])).found
    assert found.box == parse_detections(boxes[0]).found[0].box


def test_the_nearest_picture_with_the_same_prompt_lends_its_answer():
    learned = QuestionsAsked(prompts=["ocr", "count dog", "ocr"], answers=["12", "3", "45"], vectors={"a": np.eye(3)})
    asked = QuestionsAsked(
        prompts=["ocr", "count ring"], answers=["", ""], vectors={"a": np.array([[0.1, 0.9, 0.2], [0, 1, 0.0]])}
    )
    assert nearest_answers(learned, asked, "a") == ["45", "3"]  # nobody asked how many rings there are


def test_the_page_shows_pictures_questions_answers_and_boxes(tmp_path):
    source = next(iter(questions(Data(train_data="scene_tasks"), Prompted()).sources(0).held_out.values()))
    listed = [
        {"prompt": record.prompt, "truth": record.captions[0].text, "answer": record.captions[0].text}
        for record in map(source.record, range(1, 6))
    ]
    (tmp_path / "results.json").write_text(json.dumps({"training": {"asked": listed}}))
    page = write_tiny_page(tmp_path / "page.html", [tmp_path], ROWS, BASELINES).read_text(encoding="utf-8")
    assert page.count("data:image/webp") == 5
    assert all(one["prompt"] in page for one in listed)
    assert "55.0 ± 63.5" in page
