"""The ablation's page from made-up scores: table, differences seed by seed, figure, and an old page."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from diptych.core.report.ablation_page import (
    BEGIN,
    END,
    MEASURES,
    figure,
    lengths_table,
    table,
    values,
    write_page,
)
from diptych.core.report.seeds import T_95
from diptych.recipes.siglip2_ablation import Ablation, results_by_seed, variants

SVG = "{http://www.w3.org/2000/svg}"
LENGTHS = (16, 25, 36, 64)


def scores(number: float) -> dict:
    """Of a stage: each measure is the number, moved by its own thousandths."""
    return {
        "retrieval": {
            "New scenes": {
                "en": {"recall@1": number, "recall@5": number + 0.004},
                "mean": {"recall@1": number + 0.001, "recall@5": number + 0.005},
            }
        },
        "dense": {
            "localization": {"new scenes": {"accuracy": number + 0.002}},
            "segmentation": {"new scenes": {"mean_iou": number + 0.003}},
            "depth": {"new scenes": {"rmse": 1 - number}},
        },
        "recall_by_length": {str(length): number + length / 1_000 for length in LENGTHS},
    }


def made_up(*offsets: float) -> dict:
    """Results of one seed for each offset; stage k of a seed's runs scores offset + k / 100."""
    results = {}
    for seed, offset in enumerate(offsets):
        stages = [(name, stage.name) for name, recipe in variants(Ablation()).items() for stage in recipe.stages]
        results[seed] = {name: {} for name, _ in stages}
        for place, (name, stage) in enumerate(stages):
            results[seed][name][stage] = scores(offset + place / 100)
    return results


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split(" | ")]


def rows(text: str) -> list[list[str]]:
    head, rule, *lines = text.splitlines()
    assert set(rule) == {"|", "-"}
    assert all(line.count("|") == head.count("|") for line in lines)
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def test_every_measure_has_a_row_for_each_of_what_it_compares():
    found = rows(table(made_up(0.2, 0.3)))
    expected = [(measure, name) for measure in MEASURES for name in measure.of]
    assert [row[1] for row in found] == [name for _, name in expected]
    assert [row[0] for row in found if row[0]] == [measure.title for measure in MEASURES]
    for row, (measure, name) in zip(found, expected, strict=True):
        first = name == next(iter(measure.of))
        assert bool(row[0]) == first
        assert bool(row[3]) == (not first)


def test_means_and_intervals_are_those_of_the_seeds():
    results = made_up(0.2, 0.3, 0.4)
    row = rows(table(results))[0]
    # Stage 0 scores 0.2, 0.3 and 0.4: s = 0.1.
    assert row[2] == f"30.0 ± {100 * T_95[1] * 0.1 / 3**0.5:.1f}"
    (one,) = {row[2] for row in rows(table(made_up(0.2)))[:1]}
    assert one == "20.0"  # a single seed has no interval


def test_differences_are_taken_seed_by_seed():
    """Seeds may be far apart: what counts is that every one of them gains."""
    results = made_up(0.1, 0.5)
    measure = MEASURES[0]
    first, second, *_ = measure.of
    gains = [0.021, 0.019]
    for seed, gain in enumerate(gains):
        (run, stage), (base, base_stage) = measure.of[second], measure.of[first]
        results[seed][run][stage] = scores(measure.read(results[seed][base][base_stage]) + gain)
    row = rows(table(results))[1]
    assert row[3] == f"+2.0 ± {100 * T_95[0] * 0.001:.1f}"
    spread = float(row[2].partition("± ")[2])
    assert spread > 100  # of the mean itself, over seeds


def test_a_loss_has_a_minus_and_metres_are_not_percent():
    results = made_up(0.2, 0.3)
    found = {(measure.title, name): row for measure, name, row in _measured(results)}
    depth = next(measure for measure in MEASURES if "metres" in measure.title)
    assert not depth.more_is_better
    first, second, *_ = depth.of
    by_hand = sum(values(results, depth, second)) / 2 - sum(values(results, depth, first)) / 2
    assert by_hand < 0
    assert found[depth.title, second][3] == f"−{-by_hand:.3f} ± 0.000"
    assert found[depth.title, first][2].startswith("0.750 ± ")


def _measured(results):
    lines = iter(rows(table(results)))
    return [(measure, name, next(lines)) for measure in MEASURES for name in measure.of]


def test_every_measure_reads_its_own_number():
    results = made_up(0.2)
    for measure in MEASURES:
        for name, (run, stage) in measure.of.items():
            (value,) = values(results, measure, name)
            assert value == measure.read(results[0][run][stage])
    readings = {measure.title: measure.read(scores(0.5)) for measure in MEASURES}
    assert sorted(set(readings.values())) == [0.5, 0.501, 0.502, 0.503, 0.504, 0.505, 0.536]
    assert {title for title, value in readings.items() if value == 0.502} == {
        title for title in readings if title.startswith("Boxes")
    }


def test_lengths_stand_side_by_side():
    results = made_up(0.2, 0.2)
    head, _, naflex, square = lengths_table(results).splitlines()
    assert cells(head)[1:] == ["16", "25", "36", "64"]
    base = results[0]["aspects"]["naflex"]["retrieval"]["New scenes"]["en"]["recall@1"]
    assert cells(naflex)[1:] == [f"{100 * (base + length / 1_000):.1f} ± 0.0" for length in LENGTHS]
    assert [bool(cell.strip()) for cell in square.split("|")[2:-1]] == [False, False, True, False]


@pytest.mark.parametrize("offsets", [(0.2,), (0.2, 0.3), (0.2, 0.2, 0.2)])
def test_the_figure_is_xml_with_a_point_for_each_seed(offsets):
    results = made_up(*offsets)
    root = ElementTree.fromstring(figure(results))
    assert root.tag == f"{SVG}svg"
    width, height = float(root.get("width")), float(root.get("height"))
    compared = sum(len(measure.of) for measure in MEASURES)
    circles = root.findall(f"{SVG}circle")
    assert len(circles) == compared * len(offsets)
    assert len(root.findall(f"{SVG}line")) == compared
    texts = ["".join(text.itertext()) for text in root.findall(f"{SVG}text")]
    for measure in MEASURES:
        assert measure.title in texts
        assert set(measure.of) <= set(texts)
    for mark in circles:
        assert 0 <= float(mark.get("cx")) <= width
        assert 0 <= float(mark.get("cy")) <= height
    for line in root.findall(f"{SVG}line"):
        assert line.get("x1") == line.get("x2")


def test_points_stand_in_the_order_of_their_numbers():
    root = ElementTree.fromstring(figure(made_up(0.4, 0.2, 0.3)))
    places = [float(mark.get("cx")) for mark in root.findall(f"{SVG}circle")[:3]]
    assert places[1] < places[2] < places[0]
    mean = float(root.find(f"{SVG}line").get("x1"))
    assert mean == pytest.approx(places[2], abs=0.1)


def test_scores_that_are_equal_everywhere_make_a_figure_too():
    results = made_up(0.2)
    for run in results[0].values():
        for stage in run:
            run[stage] = scores(0.25)
    ElementTree.fromstring(figure(results))
    assert "NaN" not in figure(results)
    assert rows(table(results))[1][3] == "+0.0"


def test_a_page_is_written_with_its_figure(tmp_path):
    path = tmp_path / "docs" / "page.md"
    write_page(path, made_up(0.2), Ablation(examples=2_000, batch_size=64))
    text = path.read_text()
    assert text.startswith("# ")
    assert text.index(BEGIN) < text.index("1 seed, 2,000 examples a run in batches of 64") < text.index(END)
    assert "](pictures/page.svg)" in text
    assert (tmp_path / "docs" / "pictures" / "page.svg").read_text() == figure(made_up(0.2))


def test_only_what_stands_between_the_marks_is_replaced(tmp_path):
    path = tmp_path / "page.md"
    path.write_text(f"# Title\n\nBefore.\n\n{BEGIN}\n\nold numbers\n\n{END}\n\nAfter.\n")
    write_page(path, made_up(0.2, 0.3), Ablation())
    text = path.read_text()
    assert text.startswith(f"# Title\n\nBefore.\n\n{BEGIN}\n\n2 seeds, ")
    assert text.endswith(f"{END}\n\nAfter.\n")
    assert "old numbers" not in text
    write_page(path, made_up(0.2, 0.3), Ablation())
    assert path.read_text() == text


def test_results_are_those_of_whole_seeds(tmp_path):
    options, results = Ablation(seeds=3, run_dir=tmp_path), made_up(0.1, 0.2)
    for seed, runs in results.items():
        for name, found in runs.items():
            folder = Path(tmp_path) / f"seed-{seed}" / name
            folder.mkdir(parents=True)
            (folder / "results.json").write_text(json.dumps(found))
    assert results_by_seed(options) == results
    (tmp_path / "seed-1" / next(iter(results[1])) / "results.json").unlink()
    assert results_by_seed(options) == {0: results[0]}
    assert table(results_by_seed(options)) == table({0: results[0]})
