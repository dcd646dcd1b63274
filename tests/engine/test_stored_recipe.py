"""A run begins with the options of another one, and further flags come on top."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from diptych.core.training.card import plain
from diptych.core.training.recipe import Recipe
from diptych.engine.command_line import parse_recipe
from diptych.recipes import clip, siglip, siglip2

PAPER = siglip2.siglip2(next(iter(siglip2.SIZES)))
RECIPES = {"siglip": siglip.siglip(), "clip": clip.clip(), "siglip2": siglip2.tiny(), "paper": PAPER}


def card(folder: Path, config: object) -> Path:
    path = folder / "card.json"
    path.write_text(json.dumps({"config": config, "backend": "jax"}))
    return path


def parsed(*flags: str) -> Recipe:
    return parse_recipe(siglip.siglip(), list(flags), program="test", description=None)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_read_back_as_it_was_but_for_its_folder(tmp_path, name):
    asked = replace(RECIPES[name], run=replace(RECIPES[name].run, run_dir=Path("elsewhere"), patience=None, seed=7))
    found = parsed("--config", str(card(tmp_path, plain(asked))))
    assert found == replace(asked, run=replace(asked.run, run_dir=siglip.siglip().run.run_dir))


def test_flags_come_on_top_wherever_they_stand(tmp_path):
    recipe = siglip.siglip()
    tuned = replace(recipe, optimization=replace(recipe.optimization, batch_size=48, learning_rate=3e-4))
    card(tmp_path, plain(tuned))
    for flags in (
        ("--learning-rate", "0.1", f"--config={tmp_path}"),
        ("--config", str(tmp_path), "--learning-rate", "0.1"),
    ):
        found = parsed(*flags).optimization
        assert (found.batch_size, found.learning_rate) == (48, 0.1)


def test_what_an_earlier_diptych_did_not_store_is_as_in_the_recipe(tmp_path):
    config = plain(siglip.siglip())
    del config["run"]["patience"], config["model"]["lora_rank"], config["distillation"]
    config["optimization"]["batch_size"] = 64
    assert parsed("--config", str(card(tmp_path, config))).optimization.batch_size == 64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config["data"].update(colour="red"), "data: Data has no colour"),
        (lambda config: config["optimization"].update(batch_size="many"), "batch_size: expected int, got 'many'"),
        (lambda config: config["optimization"].update(loss="hinge"), "loss: expected one of sigmoid, softmax"),
        (lambda config: config.pop("optimization"), "no options of a training run"),
    ],
)
def test_what_is_no_recipe_is_refused_with_its_field(tmp_path, capsys, change, message):
    config = plain(siglip.siglip())
    change(config)
    with pytest.raises(SystemExit):
        parsed("--config", str(card(tmp_path, config)))
    assert message in (said := capsys.readouterr().err)
    assert "card.json" in said


def test_a_card_that_is_not_there_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        parsed("--config", str(tmp_path / "run"))
    assert "no such file" in capsys.readouterr().err
