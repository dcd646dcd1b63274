"""The page of `benchmarks.paligemma_tiny`: its table, and pictures with questions, answers and boxes of each seed."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.cells import Row
from diptych.core.evaluation.answer_metrics import answer_score
from diptych.core.report.charts.layout import lead
from diptych.core.report.charts.markup import Markup, element, join
from diptych.core.report.charts.sheet import sheet, write_page
from diptych.core.report.run.asked import gallery
from diptych.core.report.run.contents import Asked
from diptych.core.report.seeds import mean_of
from diptych.core.training.recipe import Data
from diptych.core.training.results import read_results
from diptych.core.training.term_options import Prompted
from diptych.engine.datasets.questions import METRIC, MIXED, questions

WAYS = ("blind", "asked")


def write_tiny_page(
    path: Path, asked: Sequence[Path], rows: Sequence[Row], baselines: Mapping[str, Mapping[str, float]]
) -> Path:
    """Writes the page; returns its path.

    Args:
        asked: the folders of the runs that saw pictures, seed by seed.
        rows: of all runs.
        baselines: right answers by baseline and held-out set.
    """
    title = "A tiny PaliGemma, asked"
    says = (
        "Questions about scenes of emoji: drawings by a designer that is held out, and compositions that were never "
        "trained. The box that an answer names is drawn on its picture."
    )
    sections = [_results(rows, baselines)]
    for seed, folder in enumerate(asked):
        report = element("a", "report", href=f"{folder.name}/report.html")
        head = lead(f"Seed {seed}", "The first questions about a new designer's drawings, all tasks in turn.")
        sections.append(join([head, element("p", "The run has a ", report, " of its own."), gallery(_asked(folder))]))
    return write_page(path, sheet(title, [says], sections)).resolve()


def _results(rows: Sequence[Row], baselines: Mapping[str, Mapping[str, float]]) -> Markup:
    head = element("tr", [element("th", what, scope="col") for what in ("held out", *baselines, *WAYS)])
    lines = []
    for name in next(iter(baselines.values())):
        cells = [f"{100 * scores[name]:.1f}" for scores in baselines.values()]
        cells += [mean_of([row["scores"][name] for row in rows if row["way"] == way]).percent() for way in WAYS]
        numbers = [element("td", cell, class_="number") for cell in cells]
        lines.append(element("tr", element("th", name, scope="row"), numbers))
    says = "Right answers in %; of the two kinds of runs means over seeds, with 95% intervals."
    made = element("div", element("table", element("thead", head), element("tbody", lines)), class_="scroll")
    return join([lead("Held-out questions", says), element("div", made, class_="panel")])


def _asked(folder: Path) -> Asked:
    """The questions that a run's results list, with their pictures drawn again."""
    held_out = questions(Data(train_data="scene_tasks"), Prompted()).sources(0).held_out
    source = next(source for name, source in held_out.items() if name.startswith(MIXED))
    (found,) = read_results(folder / "results.json").values()
    listed = found["asked"]
    by_prompt = [source.record(index) for index in range(len(source))]
    pictures, place = [], 0
    for one in listed:  # in the order of the source, of which some may not have been asked
        while (by_prompt[place].prompt, by_prompt[place].captions[0].text) != (one["prompt"], one["truth"]):
            place += 1
        pictures.append(source.pixels(by_prompt[place].images[0]))  # type: ignore[attr-defined]
        place += 1
    told, truths = [one["answer"] for one in listed], [one["truth"] for one in listed]
    _, right = answer_score(METRIC, told, [[truth] for truth in truths])
    return Asked(
        thumbnails=np.stack(pictures),
        prompts=[one["prompt"] for one in listed],
        truths=truths,
        answers=told,
        right=right.tolist(),
    )
