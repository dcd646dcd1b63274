"""The comparison of ways to fine-tune: what each run is told, what is gone on with, and tables that say what was found.

With DIPTYCH_THOROUGH the whole of it is rehearsed, a few steps of each run.
"""

import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import keras
import pytest

from benchmarks import fine_tuning as benchmark
from benchmarks import fine_tuning_page as page
from benchmarks import fine_tuning_pictures as pictures
from benchmarks.cells import Rows
from diptych.core.data.emoji import DESIGNERS, HELD_OUT_DESIGNER, EmojiSource

pytestmark = pytest.mark.skipif(keras.config.backend() != "jax", reason="nothing in it depends on the backend")

SCORES = {
    "a": {"recall@1": 0.1, "recall@5": 0.2, "retained": 0.3},
    "b": {"recall@1": 0.1, "recall@5": 0.2, "groups": 0.3},
    "c": {"recall@1": 0.1, "recall@5": 0.2, "boxes": 0.3, "overlap": 0.4},
    "d": {"accuracy": 0.1},
}


def found(arm: benchmark.Arm) -> dict:
    """Made-up scores: those of its part, more by a hundredth for each place and two thousandths for each seed."""
    name = arm.arm.removesuffix(page.EQUAL_SECONDS).removesuffix(page.SHORTEST)
    place = list(benchmark.PARTS[arm.part].arms).index(name)
    more = place / 100 + arm.seed / 500
    scores = {name: value + more for name, value in SCORES[arm.part].items()}
    if arm.arm == "line":
        scores = {f"{alpha:g}": {"recall@1": alpha / 10, "retained": 0.3 - alpha / 10} for alpha in benchmark.ALPHAS}
    if arm.arm.startswith("fresh"):
        del scores["retained"]
    return {"scores": scores, "wall_seconds": 1.0, "cpu_seconds": 5 + (arm.examples - 128) / 100 / (1 + place)}


def all_rows(run_dir: Path, *, seeds: int = 2) -> list[dict]:
    """The rows of all parts, as the command leaves them."""
    rows = Rows(run_dir)
    while arm := benchmark.next_arm("abcd", seeds, rows, data="twemoji", quick=False):
        rows.add(arm, found(arm))
    return list(rows)


def test_the_recipes_take_the_flags(tmp_path):
    """The command line of a run, parsed by the recipe it is for, is that run."""
    from diptych.engine.command_line import parse, parse_recipe
    from diptych.recipes import classifier, interpolate, lit, siglip, siglip2

    defaults = {
        "siglip": siglip.siglip,
        "lit": lit.tiny,
        "finetune": siglip2.finetune,
        "linear_probe": classifier.linear_probe,
        "full": classifier.full,
    }
    for name, part in benchmark.PARTS.items():
        for arm in part.first(name, 3, data="twemoji", quick=False):
            if name == "d" and not arm.arm.startswith("group-10-"):
                continue
            words = arm.command(tmp_path)[2:]
            if arm.arm == "line":
                options = parse(interpolate.Interpolate(), words[1:], program="", description=None)
                assert options.after == str(tmp_path / "a-full-seed-3")
                assert options.points == list(benchmark.ALPHAS)
                continue
            preset = next(place for place, word in enumerate([*words, "--"]) if word.startswith("--"))
            recipe = parse_recipe(
                defaults[words[preset - 1].removeprefix("recipes.")](), words[preset:], program="", description=None
            )
            assert recipe.run.run_dir == tmp_path / arm.name
            assert (recipe.run.seed, recipe.optimization.examples) == (3, arm.examples)
            assert recipe.model.lock_image == (arm.arm == "locked" or arm.arm.endswith("probe"))
            assert (recipe.model.lora_rank is not None) == (arm.arm == "adapters")
            if name in "ad":
                assert (recipe.model.pretrained is None) == (arm.arm == "fresh" or arm.arm.endswith("scratch"))


def test_runs_of_a_part_see_equally_many_examples():
    for name in "abd":
        arms = benchmark.PARTS[name].first(name, 0, data="twemoji", quick=False)
        assert len({arm.examples for arm in arms}) == 1


def test_the_same_seconds_are_as_many_examples_as_the_pace_allows():
    part = replace(benchmark.PARTS["b"], examples=1280)
    pace = {"scratch": 100.0, "moving": 50.0, "locked": 1000.0}
    again = part.again(part.first("b", 1, data="twemoji", quick=False), pace)
    assert {arm.arm: arm.examples for arm in again} == {"moving-equal-seconds": 640, "locked-equal-seconds": 12_800}
    assert {arm.seed for arm in again} == {1}


def test_a_second_call_goes_on_with_what_is_missing(tmp_path, monkeypatch):
    asked = []

    def run(arm, run_dir):
        asked.append(arm.name)
        if len(asked) == 5:
            raise KeyboardInterrupt
        return found(arm)

    monkeypatch.setattr(benchmark, "run_arm", run)
    monkeypatch.setattr(benchmark, "write_results", lambda name, results: Path("results"))
    monkeypatch.setattr(benchmark, "write_page", lambda results: [])
    flags = ["--run-dir", str(tmp_path), "--part", "b", "--seeds", "2"]
    with pytest.raises(KeyboardInterrupt):
        benchmark.main(flags)
    assert benchmark.main(flags) == 0
    first, shortest = ["scratch", "moving", "locked"], ["scratch-shortest", "moving-shortest", "locked-shortest"]
    again = ["moving-equal-seconds", "locked-equal-seconds"]
    whole = [f"b-{name}-seed-0" for name in (*first, *shortest, *again)]
    whole += [f"b-{name}-seed-1" for name in (*first, *again)]
    assert asked == [*whole[:5], *whole[4:]]
    assert benchmark.main(flags) == 0
    assert len(asked) == len(whole) + 1


def test_nothing_that_was_measured_is_replaced_by_nothing(tmp_path, monkeypatch, capsys):
    written: list[str] = []
    monkeypatch.setattr(benchmark, "write_results", lambda name, results: written.append(name))
    assert benchmark.main(["--table-only", "--run-dir", str(tmp_path)]) == 1
    assert not written
    assert "No run is finished yet" in capsys.readouterr().out


def test_runs_on_other_pictures_are_not_mixed(tmp_path, capsys):
    all_rows(tmp_path, seeds=1)
    with pytest.raises(SystemExit):
        benchmark.main(["--run-dir", str(tmp_path), "--part", "b", "--data", "photos/"])
    assert "b-scratch-seed-0 with data twemoji, and photos/ is asked for" in capsys.readouterr().err


def test_tables_have_means_and_differences_seed_by_seed(tmp_path):
    text = "\n".join(page.tables({"arms": all_rows(tmp_path)}))
    assert "| all weights | 12,800 | 11.1 ± 1.3 | 21.1 ± 1.3 | +1.0 ± 0.0 | 31.1 ± 1.3 |" in text
    assert "| WiSE-FT, half way to all weights |  | 5.0 ± 0.0 |  |  | 25.0 ± 0.0 |" in text
    assert "| LiT, the same tower locked, equal seconds | 46,080 | 12.1 ± 1.3 | 22.1 ± 1.3 | +2.0 ± 0.0 |" in text
    assert "| groups, 1 a class | 10.1 ± 1.3 | 11.1 ± 1.3 | 12.1 ± 1.3 | +1.0 ± 0.0 | +1.0 ± 0.0 |" in text


def test_a_seed_counts_once_all_runs_of_its_part_are_finished(tmp_path):
    rows = all_rows(tmp_path)
    first = [row for row in rows if row["part"] == "c"]
    assert "seeds:" in page.tables({"arms": first})[0]
    assert "1 seed:" in page.tables({"arms": first[:-1]})[0]
    assert page.tables({"arms": first[:3]})[0].count("seed:") == 1
    assert page.tables({"arms": []}) == []


def test_the_document_gets_tables_and_a_figure(tmp_path):
    rows = all_rows(tmp_path)
    document, picture = tmp_path / "page.md", tmp_path / "figure.svg"
    document.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n")
    results = {"arms": rows, "backend": "jax"}
    assert page.write_page(results, page=document, picture=picture) == [document, picture]
    text = document.read_text()
    assert "old" not in text
    assert [text.count(f"**{part}. ") for part in "abcd"] == [1, 1, 1, 1]
    assert "](pictures/figure.svg)" in text
    drawn = ElementTree.fromstring(picture.read_text())
    dots = [of for of in drawn.iter("{http://www.w3.org/2000/svg}circle")]
    assert len(dots) == len(benchmark.ALPHAS) + 3 + 18
    only_c = [row for row in rows if row["part"] == "c"]
    assert page.write_page({"arms": only_c, "backend": "jax"}, page=document, picture=picture) == [document]
    assert "pictures/" not in document.read_text()


def test_the_document_of_the_checkout_shows_what_was_measured():
    text = page.PAGE.read_text(encoding="utf-8")
    assert text.count(page.BEGIN) == text.count(page.END) == 1
    measured = [json.loads(path.read_text()) for path in page.ROOT.glob("benchmarks/results/*/fine_tuning.json")]
    assert measured
    assert any(all(table in text for table in page.tables(results)) for results in measured)


def test_labels_are_other_designers_and_the_judged_ones_are_of_none():
    source = EmojiSource("all", DESIGNERS, ("en",), keywords=False)
    lists = pictures.labelled_lists(source, (1, 10), seed=1)
    assert len(lists) == 6
    for kind, classes in (("group", 9), ("subgroup", 98)):
        judged = lists[f"judged-{kind}.csv"]
        assert len(judged) == 1914
        assert all(name.startswith(HELD_OUT_DESIGNER) for name, _ in judged)
        few = lists[f"{kind}-10-seed-1.csv"]
        assert len(set(few)) == len(few)
        assert not any(name.startswith(HELD_OUT_DESIGNER) for name, _ in few)
        assert set(Counter(label for _, label in lists[f"{kind}-1-seed-1.csv"]).values()) == {1}
        assert len({label for _, label in few}) == classes
        assert max(Counter(label for _, label in few).values()) == 10
    assert lists != pictures.labelled_lists(source, (1, 10), seed=2)


def test_clip_art_has_titles_that_no_other_drawing_has(tmp_path):
    titles = {
        "apple": "Red &amp; green\n_apple",
        "card_1": "card",
        "card_2": "Card",
        "nameless": "",
        "large": "elephant" + " " * pictures.LARGEST_DOCUMENT,
    }
    for name, title in titles.items():
        (tmp_path / f"{name}.svg").write_text(f"<svg><dc:title>{title}</dc:title></svg>")
    (tmp_path / "untitled.svg").write_text("<svg/>")
    assert pictures.titled(tmp_path) == {tmp_path / "apple.svg": "Red & green apple"}


@pytest.mark.skipif(not os.environ.get("DIPTYCH_THOROUGH"), reason="with DIPTYCH_THOROUGH: 60 runs, ten minutes")
@pytest.mark.timeout(3_600)
def test_a_rehearsal_carries_out_every_run(tmp_path, capsys):
    assert benchmark.main(["--quick", "--seeds", "1", "--data", "twemoji", "--run-dir", str(tmp_path)]) == 0
    rows = list(Rows(tmp_path))
    assert len(rows) == 12 + 8 + 4 + 18
    written = page.tables({"arms": rows})
    assert len(written) == 4
    assert not any("nan" in table for table in written)
