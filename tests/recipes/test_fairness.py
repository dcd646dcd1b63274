"""Measuring evenness as people do it: planted biases come out, on data as distributed and on the emoji; misused."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from diptych.engine.datasets import emoji_fairness
from diptych.engine.datasets.open_fairness import open_fairness_sets
from diptych.recipes import fairness as recipe
from diptych.recipes.fairness import Fairness, fairness
from tests.core.data.pictures import encoded
from tests.core.data.sources.test_grouped_pictures import write_list
from tests.marks import ABOVE_THE_BACKENDS
from tests.recipes.test_evaluate import CountingProcessor, TowerEncoder

COLOURS = {"red": (220, 40, 40), "green": (40, 170, 60), "blue": (40, 70, 220), "yellow": (240, 210, 50)}
WRONG = {"Africa": 16, "Europe": 4}  # of 40 pictures each


@pytest.fixture
def world(tmp_path):
    """Pictures of two regions that are colours, some of which show another than their list says."""
    folder, rows, names = tmp_path / "geode", [], list(COLOURS)
    (folder / "images").mkdir(parents=True)
    for region, wrong in WRONG.items():
        for number in range(40):
            said = names[number % 4]
            shown = names[(number + 1) % 4] if number < wrong else said
            name = f"{region}-{number}.png"
            rows.append({"file_path": name, "object": said, "region": region, "ip_country": f"{region} {number % 5}"})
            (folder / "images" / name).write_bytes(encoded(np.full((16, 16, 3), COLOURS[shown], np.uint8)))
    write_list(folder / "index.csv", rows)
    return folder


def options(world, **changes) -> Fairness:
    given = {"data": (f"geode:{world}",), "output": world.parent / "out" / "results.json"}
    return Fairness(**given | changes)


def test_planted_disparities_and_preferences_come_out(world, capsys):
    chosen = options(world, pairs=("red/green", "green / red"))
    assert fairness(chosen, lambda name: TowerEncoder()) == 0
    said = capsys.readouterr().out
    (found,) = json.loads(chosen.output.read_text())["results"]
    assert found["zero_shot"]["accuracy"] == 0.75
    regions, *others = found["by_group"]
    assert [(one["group"], one["accuracy"]) for one in regions["groups"]] == [("Europe", 0.9), ("Africa", 0.6)]
    assert regions["disparity"] == pytest.approx(0.3)
    assert regions["disparity"] > regions["by_chance"]
    assert not others  # eight pictures a country are too few
    assert [one["texts"] for one in found["representation"]] == [["red", "green"], ["green", "red"]]
    there, back = (one["bias"] for one in found["representation"])
    assert there == -back
    assert found["place"] == "region"
    assert 0.2 < found["few_shot"]["accuracy"] < 0.8
    assert "best minus worst 30.0%" in said
    page = chosen.output.with_suffix(".html").read_text()
    assert "more than groups of these sizes differ by chance" in page
    assert "<script" not in page
    again = TowerEncoder(processor=CountingProcessor())
    assert fairness(chosen, lambda name: again) == 0
    assert again.processor.images_seen == 0


def test_whom_a_model_sees_follows_what_is_there(world):
    for path in sorted((world / "images").iterdir())[:60]:
        path.write_bytes(encoded(np.full((16, 16, 3), COLOURS["red"], np.uint8)))
    chosen = options(world, pairs=("red/green",))
    assert fairness(chosen, lambda name: TowerEncoder()) == 0
    (bias,) = json.loads(chosen.output.read_text())["results"][0]["representation"]
    assert bias["bias"] > 60 / 80 - 0.5
    assert bias["interval"][0] < bias["bias"] < bias["interval"][1]


def test_the_emoji_are_drawn_in_pairs_by_twelve_designers():
    unseen, everyone = open_fairness_sets("emoji")
    items = [SimpleNamespace(record=index, image=json.dumps(["twemoji", "x"])) for index in range(len(unseen.source))]
    names = {item.record: unseen.source.concept(item.record).names["en"] for item in items}
    groups = {names[item.record]: unseen.groups(item).get("gender") for item in items}
    assert groups["man cook"] == "men"
    assert groups["woman cook"] == "women"
    assert groups["cook"] is groups["red apple"] is None
    people = {names[item.record]: unseen.people.group(item) for item in items}
    assert people["woman cook"] == "b"
    assert people["old woman"] is None  # nobody is drawn as "old" alone
    assert sum(group == "a" for group in people.values()) == sum(group == "b" for group in people.values()) > 50
    assert "cook" in unseen.people.labels
    assert {unseen.source.concept(item.record).group for item in items if unseen.nobody(item)}.isdisjoint(
        {"people-body", "smileys-emotion"}
    )
    assert everyone.groups(items[0]) == {"designer": "twemoji (never trained on)"}
    assert list(unseen.kinds)[0] == "en"
    assert len(unseen.kinds) == 36


@ABOVE_THE_BACKENDS
def test_the_command_runs_on_a_part_of_the_emoji(tmp_path, monkeypatch, capsys):
    def few(split, **settings):
        source = real(split, **settings)
        source._entries = [
            entry
            for place, entry in enumerate(source._entries)
            if place % 20 == 0 or entry[0].names["en"].startswith(("man ", "woman "))
        ]
        return source

    real = emoji_fairness.EmojiSource
    monkeypatch.setattr(emoji_fairness, "EmojiSource", few)
    monkeypatch.setattr(emoji_fairness, "LANGUAGES", ("en", "de"))
    monkeypatch.setattr(emoji_fairness, "DESIGNERS", ("twemoji", "noto"))
    assert recipe.main(["--output", str(tmp_path / "results.json"), "--min-group", "5"]) == 0
    said = capsys.readouterr().out
    for words in ("gender", "language of the prompts", "a photo of a man / a photo of a woman", "designer, from 10"):
        assert words in said
    first, second = json.loads((tmp_path / "results.json").read_text())["results"]
    assert sorted(one["group"] for one in first["by_language"]["groups"]) == ["English", "German"]
    assert first["association"]["images_a"] == first["association"]["images_b"] > 0
    assert not second["representation"]
    page = (tmp_path / "results.html").read_text()
    assert "What they are taken for" in page


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pairs": ("man woman",)}, "--pairs takes two texts with a stroke between them"),
        ({"pairs": ("man/",)}, "--pairs takes two texts"),
        ({"data": ()}, "--data needs at least one"),
        ({"min_group": 0}, "--min-group must be at least 1, got 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        Fairness(**changes)


def test_data_that_are_unknown_or_missing_are_a_sentence(tmp_path, capsys):
    assert recipe.main(["--data", "photos", "--output", str(tmp_path / "r.json")]) == 1
    assert "--data is emoji, or dollar_street, geode or landmarks with :FOLDER behind it" in capsys.readouterr().err
    assert recipe.main(["--data", f"geode:{tmp_path}", "--output", str(tmp_path / "r.json")]) == 1
    assert "no file" in capsys.readouterr().err
