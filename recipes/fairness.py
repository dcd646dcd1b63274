"""Fairness: how evenly a trained model sees groups of people, regions, incomes, languages and makers.

Command:   python -m recipes.fairness
Own model: python -m recipes.fairness --model runs/siglip --output runs/fairness/results.json
Own data:  python -m recipes.fairness --model hf://google/siglip2-base-patch16-256 --data geode:GeoDE/

Without flags the shipped model looks at the embedded emoji: whom it sees in drawings of nobody, what men and women are
taken for who are drawn doing the same, and how well it tells drawings of each designer, in 36 languages. --data is
"emoji", or one of these as they are distributed:

  dollar_street:FOLDER   things in homes by income, region and country (MLCommons' lists for ImageNet)
  geode:FOLDER           forty kinds of things from six regions of the world
  landmarks:FOLDER       the test pictures of Google Landmarks v2.1

Measured are zero-shot accuracy in each group and the best group's lead over the worst, representation bias, association
bias, and few-shot classification by country, region or designer, as SigLIP 2 reports them (Tschannen et al. 2025, arXiv
2502.14786, section 3.5). Prints tables and writes --output (JSON), and beside it a page to look at (.html). Stop it
whenever you like: the same command goes on.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.core.data.sources.open import EMBEDDED
from diptych.core.data.sources.reading import AS_USUAL, Reading
from diptych.engine.command_line import parse
from diptych.engine.flags import check_least

if TYPE_CHECKING:
    from diptych.core.evaluation.fairness_results import Measured
    from diptych.core.training.signals import StopSignals
    from diptych.engine.datasets.fairness_set import FairnessSet

FORMAT = "diptych-fairness"
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Fairness:
    """Which model, on what, and how."""

    model: str = "emoji_36_languages"
    """A trained model: a folder (of a checkpoint, or of a run), hf://owner/name, or emoji_36_languages."""
    data: tuple[str, ...] = (EMBEDDED,)
    """One or several: "emoji", dollar_street:FOLDER, geode:FOLDER, landmarks:FOLDER."""
    output: Path = Path("runs/fairness/results.json")
    """Results; the page is written beside it, as .html."""
    pairs: tuple[str, ...] = ()
    """Pairs of texts for representation bias, each "FIRST/SECOND"; by default four of men and women."""
    classes: tuple[str, ...] = ()
    """For Dollar Street: a file with the names of ImageNet's 1,000 classes, one a line (or a JSON list). Without them
    pictures are told among the classes that the lists name, which is easier than the published protocol."""
    templates: tuple[str, ...] = ()
    """"a photo of a {}", or files with one a line (or a JSON list); by default seven general ones."""
    canonicalize: bool | None = None
    """Prompts in lower case without punctuation; by default for models with a bias (SigLIP), not for CLIP."""
    fewshot_k: int = 10
    """Pictures of each country, region or designer, for few-shot classification; mean over three draws."""
    min_group: int = 20
    """Pictures of a group that is looked at."""
    batch_size: int = 64
    """Images that the model takes at a time."""
    workers: int | None = None
    """Threads that decode; by default as many as there are processors."""
    seed: int = 0
    """Of the drawing of shots and of resampling."""
    reading: Reading = AS_USUAL

    def __post_init__(self):
        check_least(self, batch_size=1, workers=1, fewshot_k=1, min_group=1, seed=0)
        if not self.data:
            raise ValueError("--data needs at least one data set.")
        for pair in self.pairs:
            if pair.count("/") != 1 or not all(text.strip() for text in pair.split("/")):
                raise ValueError(f'--pairs takes two texts with a stroke between them, "a man/a woman"; got {pair!r}.')


def main(arguments: list[str] | None = None) -> int:
    """Measures; returns the exit status."""
    options = parse(Fairness(), arguments, program="python -m recipes.fairness", description=__doc__)
    from diptych.engine.embedding.encoder import Encoder
    from diptych.engine.failures import exit_status

    return exit_status(lambda: fairness(options, Encoder.open), options)


def fairness(options: Fairness, open_encoder: Callable[[str], Any]) -> int:
    """Everything after the command line. `open_encoder` makes an encoder of the model's name: `Encoder.open`."""
    from diptych.engine.datasets.open_fairness import open_fairness_sets
    from diptych.engine.failures import stoppable

    sets = [
        each
        for spec in options.data
        for each in open_fairness_sets(
            spec, class_names=options.classes, templates=options.templates, reading=options.reading
        )
    ]
    encoder = open_encoder(options.model)
    return stoppable(lambda stop: _measure(options, sets, encoder, stop))


def _measure(options: Fairness, sets: "list[FairnessSet]", encoder: Any, stop: "StopSignals") -> int:
    from diptych.core.data.ledger import ledger_of
    from diptych.core.files.json_objects import write_json
    from diptych.core.report.charts.sheet import write_page
    from diptych.core.report.fairness_page import fairness_page
    from diptych.core.report.fairness_text import fairness_text
    from diptych.core.report.ledger_text import tell_left_out
    from diptych.engine.embedding.stored_embeddings import StoredEmbeddings
    from diptych.engine.judging.fairness import PAIRS, measure
    from diptych.engine.judging.header import header, judged_model

    canonicalize = encoder.logit_bias is not None if options.canonicalize is None else options.canonicalize
    pairs = [(first.strip(), second.strip()) for first, second in (pair.split("/") for pair in options.pairs)]
    store = StoredEmbeddings.beside(
        options.output,
        encoder,
        model=options.model,
        batch_size=options.batch_size,
        workers=options.workers,
        stop=stop,
    )
    with stop.leaving_at_once():
        results = [
            measure(
                store,
                each,
                pairs=pairs or PAIRS,
                shots=options.fewshot_k,
                fewest=options.min_group,
                canonicalize=canonicalize,
                seed=options.seed,
            )
            for each in sets
        ]
    measured: Measured = {
        **header(FORMAT, VERSION, options),
        "model": judged_model(options.model, store),
        "results": results,
    }
    print("\n" + fairness_text(results), flush=True)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.output, measured)
    page = write_page(options.output.with_suffix(".html"), fairness_page(measured))
    tell_left_out(ledger_of(each.source) for each in sets)
    print(f"\nResults: {options.output}\nPage: {page.resolve().as_uri()}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
