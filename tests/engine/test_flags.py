"""Messages name what a person can type: the flag of a field, as the command line has it."""

import re
from types import SimpleNamespace

import pytest

from diptych.engine.command_line import parse, parse_recipe
from diptych.engine.flags import OTHER_NAMES, check_least, flags_of, types_of_flags, with_flags
from diptych.recipes import classifier, siglip2
from diptych.recipes import siglip as recipe_module
from diptych.recipes.evaluate import Evaluate
from diptych.recipes.siglip import siglip
from diptych.recipes.siglip2 import tiny
from docs.manual.recipe_options import recipe_options
from tests.marks import ABOVE_THE_BACKENDS


def test_the_flags_are_those_of_the_command_line(capsys):
    recipe = siglip()
    with pytest.raises(SystemExit):
        parse_recipe(recipe, ["--help"], program="test", description=None)
    shown = capsys.readouterr().out
    unused = tuple(f"{name}." for name in recipe.unused()) + ("only", "reference", "stages")
    flags = {field: flag for field, flag in flags_of(recipe).items() if not field.startswith(unused)}
    assert len(flags) > 40
    assert not [flag for flag in flags.values() if flag not in shown]
    assert flags["optimization.batch_size"] == "--batch-size"


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("lower batch_size to at most 60", "lower --batch-size to at most 60"),
        ("raise stall_seconds.", "raise --stall-seconds."),
        ("batch_size, image_size", "--batch-size, --image-size"),
        ("photos/batch_size/a.jpg and batch_size.jpg", "photos/batch_size/a.jpg and batch_size.jpg"),
        ("Encoder.open(batch_size=3) takes init_batch_size", "Encoder.open(batch_size=3) takes init_batch_size"),
        ("a model of its own examples", "a model of its own examples"),
        ("optimization.batch_size: stored 1", "optimization.batch_size: stored 1"),
        ("no_such_field", "no_such_field"),
    ],
)
def test_only_names_of_fields_are_replaced(message, shown):
    assert with_flags(message, siglip()) == shown
    assert with_flags(message, None) == message


def test_every_flag_of_a_recipe_says_what_it_is(capsys):
    with pytest.raises(SystemExit):
        parse_recipe(tiny(), ["--help"], program="test", description=None)
    lines = [line.strip("│ ") for line in capsys.readouterr().out.splitlines()]
    flags = [place for place, line in enumerate(lines) if re.match(r"--\w\S*( [^.a-z]*)?$|--\S+, --", line)]
    assert len(flags) > 40
    assert [lines[place] for place in flags if lines[place + 1].startswith("(default")] == []


def test_help_ends_with_the_commands_of_the_description(capsys):
    with pytest.raises(SystemExit):
        parse_recipe(siglip(), ["--help"], program="test", description=recipe_module.__doc__)
    said = capsys.readouterr().out
    above, _, examples = said.partition("examples:\n")
    assert [line.partition(":")[0].strip() for line in examples.splitlines()] == ["Command", "Own data", "Fine-tune"]
    assert "Command:" not in above
    assert "arXiv 2303.15343" in above
    with pytest.raises(SystemExit):
        parse_recipe(siglip(), ["--no-such-flag"], program="test", description=recipe_module.__doc__)
    assert "examples:" not in capsys.readouterr().out


def asked(options, *words):
    return parse(options, list(words), program="test", description=None)


def test_other_names_of_a_flag_are_taken_and_said_once(capsys):
    options = asked(Evaluate(), "--pretrained", "a", "--dataset", "b", "c", "--custom_classname_file=d.txt")
    assert (options.model, options.data, options.classes) == ("a", ("b", "c"), ("d.txt",))
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "test: --pretrained is called --model here, and taken for it.",
        "test: --dataset is called --data here, and taken for it.",
        "test: --custom-classname-file is called --classes here, and taken for it.",
    ]
    words = ["--lr", "1", "--lr=2", "--data", "photos", "--pretrained", "a", "--output", "out"]
    recipe = parse_recipe(siglip(), words, program="test", description=None)
    assert (recipe.optimization.learning_rate, recipe.data.train_data, recipe.model.pretrained) == (2, "photos", "a")
    assert recipe.run.run_dir.name == "out"
    assert [line.split()[1] for line in capsys.readouterr().err.splitlines()] == ["--lr", "--data", "--output"]


@ABOVE_THE_BACKENDS
def test_each_other_name_means_a_flag_of_some_recipe_and_no_recipe_has_two_for_one_thing():
    of_recipes = [types_of_flags(type(asked.options)) for asked in recipe_options().values()]
    assert len(of_recipes) >= 12
    for other, names in OTHER_NAMES.items():
        assert any(name in known for name in names for known in of_recipes), other
    retired = OTHER_NAMES.keys() - {"--data", "--train-data", "--images", "--output", "--pretrained"}
    retired -= {"--template", "--templates"}  # the local page shows one sentence, and others take several
    for known in of_recipes:
        assert known.keys() & retired == set(), "one name a thing: engine/flags.py has it"
        twice = [(name, other) for name in known for other in OTHER_NAMES.get(name, ()) if other in known]
        # A size and a checkpoint; the index or the run that is read, and the results that are written.
        assert set(twice) <= {("--pretrained", "--model"), ("--output", "--index"), ("--output", "--run-dir")}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--precision", "bfloat"), "--precision takes one of float32, bfloat16, got 'bfloat'. Did you mean bfloat16?"),
        (("--resize-method=biliner",), "got 'biliner'. Did you mean bilinear?"),
        (("--learnin-rate", "1"), "--learning-rate"),
        (("--loss", "sigmoidal"), "Did you mean sigmoid?"),
    ],
)
def test_a_mistyped_flag_or_value_is_answered_with_the_near_one(capsys, words, message):
    with pytest.raises(SystemExit) as ended:
        parse_recipe(siglip(), list(words), program="test", description=None)
    said = capsys.readouterr()
    assert ended.value.code == 2
    assert message in said.err + said.out


def test_a_choice_that_may_be_none_takes_none():
    assert parse_recipe(siglip(), ["--loss", "None"], program="test", description=None).optimization.loss is None


@pytest.mark.parametrize(
    ("recipe", "typed", "near"), [(siglip2, "b/17", "B/16"), (classifier, "linear", "linear_probe")]
)
def test_a_mistyped_preset_is_answered_with_the_near_one(capsys, recipe, typed, near):
    assert recipe.main([typed]) == 2
    assert f"there is no preset {typed!r}. Did you mean {near}?" in capsys.readouterr().err


def test_a_size_and_a_checkpoint_exclude_each_other(capsys):
    with pytest.raises(SystemExit):
        parse_recipe(siglip(), ["--model", "siglip_b16_224", "--pretrained", "a"], program="test", description=None)
    assert "test: --model siglip_b16_224 is a size for fresh weights" in capsys.readouterr().err


def test_options_below_their_least_value_are_refused_by_their_flags():
    options = SimpleNamespace(batch_size=3, workers=None, recall_k=(1, 5), alpha=0.0)
    check_least(options, batch_size=3, workers=1, recall_k=1, alpha=0)
    for least, message in (({"batch_size": 4}, "--batch-size must be at least 4, got 3"), ({"recall_k": 2}, "got 1")):
        with pytest.raises(ValueError, match=message):
            check_least(options, **least)
