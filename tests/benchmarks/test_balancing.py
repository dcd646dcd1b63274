"""The measurement of balanced data: its source, runs that differ in the records alone, and its numbers."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import balancing as benchmark
from benchmarks import balancing_pictures as pictures
from benchmarks.device import RESULTS
from diptych.core.data.emoji import HELD_OUT_DESIGNER
from diptych.core.data.image import decode
from diptych.core.data.records import Source
from diptych.core.data.sources.balancing import BalancedSource
from tests.marks import ABOVE_THE_BACKENDS

RECORDS = 10_000
CHANCE = 4 * 0.5 / (0.07 * RECORDS) ** 0.5  # four standard deviations of the rarest thing's share


@pytest.fixture(scope="module")
def source():
    return pictures.TeamSource(RECORDS, seed=0)


def test_things_go_with_the_teams_they_are_said_to_go_with(source):
    assert isinstance(source, Source)
    for thing, amber in enumerate(pictures.AMBERS):
        assert abs((source.teams[source.things == thing] == 0).mean() - amber) < CHANCE
    assert abs(source.framed.mean() - pictures.FRAMED) < 0.02
    assert abs(np.corrcoef(source.framed, source.teams)[0, 1]) < 0.05


def test_captions_name_thing_and_team(source):
    find = pictures.attributes()
    for index in range(50):
        team, thing = find(source.record(index))
        assert np.flatnonzero(team) == source.teams[index]
        assert np.flatnonzero(thing) == source.things[index]


def test_pictures_tell_the_team_by_a_frame_or_not_at_all(source):
    corners = np.array([source.pixels(index)[0, 0].astype(int) for index in range(400)])
    colours = np.array(list(pictures.TEAMS.values()))
    for index, corner in enumerate(corners):
        nearest = np.abs(corner - colours).max(axis=1)
        if source.framed[index]:
            assert nearest.argmin() == source.teams[index]
            assert nearest.min() < 45
        else:
            assert corner.max() - corner.min() < 90
    assert np.array_equal(decode(source.read(7)), source.pixels(7))


def test_held_out_pictures_of_a_seed_differ_in_the_frame_alone():
    amber, violet, plain = (
        pictures.held_out_pictures(HELD_OUT_DESIGNER, team, each=2, seed=3)[0] for team in (0, 1, None)
    )
    inner = np.s_[:, pictures.FRAME : -pictures.FRAME, pictures.FRAME : -pictures.FRAME]
    assert np.array_equal(amber[inner], violet[inner])
    assert np.array_equal(amber[inner], plain[inner])
    assert not np.array_equal(amber, violet)


def test_balancing_takes_the_association_away(source):
    balanced = BalancedSource(source, pictures.attributes(), config=benchmark.BALANCE, seed=0)
    kept = np.array([int(balanced.record(place).key) for place in range(len(balanced))])
    assert len(kept) > 1_000
    for thing in range(len(pictures.THINGS)):
        of_thing = source.teams[kept][source.things[kept] == thing] == 0
        assert abs(of_thing.mean() - 0.5) < 0.05 + 4 * 0.5 / len(of_thing) ** 0.5


class Told:
    """A model whose embeddings are given: teams and things along axes of their own."""

    def __init__(self, prefers_amber: float):
        self.prefers_amber = prefers_amber

    def image_embedder(self):
        return self

    def text_embedder(self):
        return self

    def predict_on_batch(self, inputs):
        things = np.eye(len(pictures.THINGS) + 2)
        if inputs.ndim == 2:
            return things[-2:] if len(inputs) == 2 else things[: len(pictures.THINGS)]
        number = np.repeat(np.arange(len(pictures.THINGS)), benchmark.EACH)
        images = things[np.tile(number, len(inputs) // len(number))]
        if len(inputs) == len(number):
            images[: round(self.prefers_amber * len(number)), -2] = 0.5
            images[round(self.prefers_amber * len(number)) :, -1] = 0.5
        else:
            images[: len(number), -2] = images[len(number) :, -1] = 0.5
        return images


@pytest.mark.parametrize("share", [0.5, 0.8, 0.0])
def test_the_judge_sees_a_bias_that_is_there(source, share):
    found = benchmark.Judge(benchmark.Words(source))(Told(share))
    assert found["representation"] == pytest.approx(share - 0.5, abs=1e-6)
    assert found["association_mean"] == 0
    assert found["accuracy"] == found["frames_told"] == 1


@ABOVE_THE_BACKENDS
def test_a_model_trains_on_the_chosen_records_alone(source, monkeypatch):
    seen = set()
    record = source.record
    monkeypatch.setattr(source, "record", lambda index: seen.add(index) or record(index))
    chosen = np.arange(100, 140)
    words = benchmark.Words(source)
    model = benchmark.trained(source, chosen, words, seed=0, steps=2)
    assert seen <= set(chosen.tolist())
    assert len(seen) > 30
    assert np.isfinite(benchmark.Judge(words)(model)["representation"])


def measured() -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(Path(RESULTS).glob("*/balancing.json"))]


def biases(results: dict, data: str, name: str) -> np.ndarray:
    return np.array([abs(row[name]) for row in results["rows"] if row["data"] == data])


def test_in_what_was_measured_balanced_data_lower_the_bias_by_more_than_the_seeds_differ():
    assert measured()
    for results in measured():
        biased, balanced = (biases(results, data, "representation") for data in ("biased", "balanced"))
        assert len(biased) == len(balanced) >= 3
        assert balanced.max() < biased.min()
        assert biased.mean() - balanced.mean() > max(np.ptp(biased), np.ptp(balanced))


def test_the_document_shows_what_was_measured():
    text = benchmark.PAGE.read_text(encoding="utf-8")
    assert text.count(benchmark.BEGIN) == text.count(benchmark.END) == 1
    assert any(benchmark.table(results) in text for results in measured())


def test_the_table_is_written_between_the_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{benchmark.BEGIN}\nwhat was there\n{benchmark.END}\nafter\n")
    numbers = dict.fromkeys(benchmark.COLUMNS, 0.25) | {"records": 1200, "ambers": 0.66}
    rows = [
        {"data": data, "seed": seed, **numbers, "representation": sign * 0.3}
        for data in benchmark.DATA
        for seed, sign in enumerate((1, -1))
    ]
    results = {"backend": "jax", "steps": 10, "rows": rows}
    benchmark.write_table(results, page)
    text = page.read_text()
    assert "| balanced | 1,200 | 66.0 | 30.0 ± 0.0 |" in text
    assert "10 steps of 64 on jax, 2 seeds" in text
    assert "what was there" not in text
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    page.write_text("no marks\n")
    with pytest.raises(ValueError, match="lacks the marks"):
        benchmark.write_table(results, page)
