"""Interpolation between the checkpoint before fine-tuning and the one after it: WiSE-FT.

Paper:     Wortsman et al. 2022, "Robust fine-tuning of zero-shot models" (arXiv 2109.01903)
Command:   python -m recipes.interpolate --after runs/tuned
Own data:  python -m recipes.interpolate --before hf://google/siglip2-base-patch16-224 --after runs/tuned/best --data
           photos/ --retention pets/

Fine-tuning forgets. The weights (1 - alpha) * before + alpha * after often keep most of what was gained and most of
what was known. Each point of the line is judged on pairs that were held out and on a retention set, of something else;
of a run that began from a checkpoint, its folder says where it began and what it held out.

Prints a table, writes --output (JSON), a page with a figure beside it (.html), and the model of the point that is kept
into the folder "model" beside it, which from_preset reads. Embeddings are kept in "embeddings": stop it whenever you
like, the same command goes on.

What differs from the paper: where --alpha is not given, the point is kept at which the mean of both recalls is largest,
as measured here; the paper takes 0.5 where nothing can be measured.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.core.data.sources.reading import AS_USUAL, Reading
from diptych.core.training.recipe import Recipe
from diptych.engine.command_line import parse
from diptych.engine.flags import check_least

if TYPE_CHECKING:
    from diptych.core.report.interpolation_page import Interpolation, Point
    from diptych.core.training.signals import StopSignals
    from diptych.engine.judging.sets import Dataset
    from diptych.models.interpolation import WeightLine

FORMAT = "diptych-interpolation"
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Interpolate:
    """Between which models, and judged on what."""

    after: str = "runs/siglip"
    """The fine-tuned model: the folder of a run, its best/, or another checkpoint."""
    before: str | None = None
    """The checkpoint that it began from; by default what the run's card says."""
    data: tuple[str, ...] = ()
    """What it was fine-tuned for, as recipes.evaluate takes it; by default the pairs that the run held out."""
    retention: str | None = None
    """What it should not forget, as recipes.evaluate takes it; by default the run's, else some of the embedded emoji by
    their English names; "none" for nothing."""
    alphas: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    """The points of the line, from 0, before, to 1, after."""
    alpha: float | None = None
    """The point that is kept; by default the one of --alphas with the largest mean of the recalls on both."""
    max_pairs: int | None = 2_000
    """Records that a run held out of which at most so many are looked at, evenly chosen; None for all."""
    output: Path = Path("runs/interpolate/results.json")
    """Results; the page is written beside it, as .html, and the model that is kept, as model/."""
    batch_size: int = 64
    """Images that the model takes at a time."""
    workers: int | None = None
    """Threads that decode; by default as many as there are processors."""
    seed: int = 0
    """Of the drawing of shots and of the bootstrap."""
    reading: Reading = AS_USUAL

    def __post_init__(self):
        if not self.alphas:
            raise ValueError("--alphas needs at least one point.")
        check_least(self, batch_size=1, workers=1, max_pairs=2, seed=0, alpha=0, alphas=0)
        if max(*self.alphas, self.alpha or 0) > 1:
            raise ValueError("Points lie between 0, before, and 1, after.")

    @property
    def points(self) -> list[float]:
        """All points that are judged, in order."""
        return sorted({*self.alphas, *(() if self.alpha is None else (self.alpha,))})


def main(arguments: list[str] | None = None) -> int:
    """Interpolates; returns the exit status."""
    options = parse(Interpolate(), arguments, program="python -m recipes.interpolate", description=__doc__)
    from diptych.engine.embedding.encoder import Encoder
    from diptych.engine.failures import exit_status
    from diptych.models.interpolation import weights_of
    from diptych.models.pretrained import from_preset, trained_preset

    def read_before(name: str) -> Mapping:
        return weights_of(from_preset(trained_preset(name)))

    return exit_status(lambda: interpolate(options, Encoder.open, read_before), options)


def interpolate(options: Interpolate, open_encoder: Callable[[str], Any], read_before: Callable[[str], Mapping]) -> int:
    """Everything after the command line.

    Args:
        options: the command line's.
        open_encoder: makes an encoder of the later model's name: `Encoder.open`.
        read_before: gives the weights of the earlier model, by path.
    """
    from diptych.engine.failures import stoppable
    from diptych.models.interpolation import WeightLine

    before, judged = _resolved(options)
    encoder = open_encoder(options.after)
    line = WeightLine(encoder.model, read_before(before))
    return stoppable(lambda stop: _along(options, line, before, judged, encoder, stop))


def _along(
    options: Interpolate,
    line: "WeightLine",
    before: str,
    judged: dict[str, list["Dataset"]],
    encoder: Any,
    stop: "StopSignals",
) -> int:
    """Judges each point of the line, and keeps the chosen one."""
    from diptych.core.data.ledger import ledger_of
    from diptych.core.files.json_objects import write_json
    from diptych.core.report.charts.sheet import write_page
    from diptych.core.report.interpolation_page import interpolation_page, interpolation_text
    from diptych.core.report.ledger_text import tell_left_out
    from diptych.engine.embedding.stored_embeddings import StoredEmbeddings

    folder = options.output.parent
    store = StoredEmbeddings.beside(
        options.output,
        encoder,
        model=options.after,
        batch_size=options.batch_size,
        workers=options.workers,
        stop=stop,
    )
    points: list[Point] = []
    with stop.leaving_at_once():
        for alpha in options.points:
            line.go_to(alpha)
            print(f"alpha {alpha:g}", flush=True)
            now = store.renewed()
            own, retention = (_numbers(now, judged[kind], options.seed) for kind in ("own", "retention"))
            points.append({"alpha": alpha, "own": own, "retention": retention})
    chosen, reason = _chosen(points, options.alpha)
    line.go_to(chosen)
    _save(encoder, folder / "model")
    results: Interpolation = {
        "format": FORMAT,
        "version": VERSION,
        "before": before,
        "after": options.after,
        "points": points,
        "chosen": chosen,
        "reason": reason,
    }
    print("\n" + interpolation_text(points, chosen), flush=True)
    write_json(options.output, results)
    title = f"Between {Path(before).name} and {Path(options.after).name}"
    page = write_page(options.output.with_suffix(".html"), interpolation_page(title, results))
    tell_left_out(ledger_of(each.source) for some in judged.values() for dataset in some for each in dataset.sets)
    print(f"\nKept: alpha {chosen:g}, {reason}: {folder / 'model'}\nPage: {page.resolve().as_uri()}", flush=True)
    return 0


def _resolved(options: Interpolate) -> tuple[str, dict[str, list["Dataset"]]]:
    """The name of the earlier model, and the data sets to judge by, of either kind."""
    from diptych.engine.judging.retention import retention_set

    recipe = _recipe_of(options.after)
    if recipe is not None and recipe.weighs("classification"):
        raise ValueError(
            f"--after {options.after} is a classifier, whose head the checkpoint before it has not: there is no line "
            "between the two. Give a model of two towers."
        )
    before = options.before or (recipe.model.pretrained if recipe else None)
    if before is None:
        raise ValueError(
            f"--after {options.after} does not say which checkpoint it began from: it is "
            f"{'a run from fresh weights' if recipe else 'no folder of a run'}. Give that checkpoint by --before."
        )
    own, asked = _own(options, recipe), options.retention or (recipe.run.retention if recipe else None)
    retention = retention_set(asked, index_folder=options.output.parent / "shards", reading=options.reading)
    return before, {"own": own, "retention": [retention] if retention else []}


def _recipe_of(after: str) -> Recipe | None:
    """The recipe of the run that left a model; None for any other checkpoint."""
    from diptych.engine.stored_recipe import stored_recipe
    from diptych.recipes.siglip import siglip

    path = Path(after)
    run = next((folder for folder in (path, path.parent) if (folder / "card.json").is_file()), None)
    return None if run is None else stored_recipe(run, siglip())


def _own(options: Interpolate, recipe: Recipe | None) -> list["Dataset"]:
    """What the later model was fine-tuned for."""
    from diptych.core.data.sources.files import evenly
    from diptych.core.data.sources.small import ChosenRecords
    from diptych.engine.datasets.open import with_data
    from diptych.engine.judging.sets import Dataset, EvaluationSet, open_dataset

    if options.data:
        shards = options.output.parent / "shards"
        return [open_dataset(spec, index_folder=shards, reading=options.reading) for spec in options.data]
    if recipe is None:
        raise ValueError(f"--after {options.after} is no folder of a run: give pairs to judge it by with --data.")
    recipe, data_set = with_data(recipe)
    sets = []
    for name, source in data_set.sources(recipe.run.seed).held_out.items():
        if options.max_pairs is not None and len(source) > options.max_pairs:
            source = ChosenRecords(source, evenly(range(len(source)), options.max_pairs))
        sets.append(EvaluationSet(name=name, source=source))
    return [Dataset(name=data_set.name, sets=sets, tasks=("zeroshot_retrieval",))]


def _numbers(store, datasets: Sequence["Dataset"], seed: int) -> dict[str, float]:
    """What a point of the line scores on data sets."""
    from diptych.engine.judging.tasks import headlines, judge

    return headlines([result for dataset in datasets for result in judge(store, dataset, seed=seed)])


def _chosen(points: Sequence["Point"], alpha: float | None) -> tuple[float, str]:
    """The point that is kept, and why."""
    if alpha is not None:
        return alpha, "as --alpha says"

    def mean_of_means(point: "Point") -> float:
        kinds = [list(found.values()) for found in (point["own"], point["retention"]) if found]
        return sum(sum(values) / len(values) for values in kinds) / len(kinds)

    best = max(points, key=mean_of_means)
    return best["alpha"], f"where the mean of both is largest, {mean_of_means(best):.1%}"


def _save(encoder, folder: Path) -> None:
    """Writes a folder that `from_preset` reads."""
    from diptych.core.files.atomic import replacing_folder

    with replacing_folder(folder) as temporary:
        encoder.model.save_to_preset(temporary, format="diptych")
        encoder.processor.save_to_preset(temporary)


if __name__ == "__main__":
    sys.exit(main())
