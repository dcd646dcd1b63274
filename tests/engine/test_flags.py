"""Messages name what a person can type: the flag of a field, as the command line has it."""

import re
from types import SimpleNamespace

import pytest

from diptych.engine.command_line import parse_recipe
from diptych.engine.flags import check_least, flags_of, with_flags
from diptych.recipes import siglip as recipe_module
from diptych.recipes.siglip import siglip
from diptych.recipes.siglip2 import tiny


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


def test_each_command_of_a_description_has_a_line_of_its_own(capsys):
    with pytest.raises(SystemExit):
        parse_recipe(siglip(), ["--help"], program="test", description=recipe_module.__doc__)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines if line.startswith(("Command:", "Own data:", "Fine-tune:"))] == [
        "Command",
        "Own data",
        "Fine-tune",
    ]


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
