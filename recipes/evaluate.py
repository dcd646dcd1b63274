"""Evaluation of a trained model: retrieval in every language, zero-shot classification, and 10-shot classification.

Command:   python -m recipes.evaluate
Own data:  python -m recipes.evaluate --model runs/siglip --data photos/ --output runs/photos/results.json

Without flags the shipped model is judged on drawings by a designer it has never seen: retrieval in 36 languages, and
classification into the nine groups of the emoji, zero-shot and with ten drawings a group. Otherwise --data is a
folder in clip-benchmark's layout (https://github.com/LAION-AI/CLIP_benchmark), a folder with a folder a class, or
images with captions in any form that training takes. Tasks and metrics have clip-benchmark's names.

Prints a table and writes --output (JSON), and beside it a page to look at (.html). Embeddings are kept in the folder
"embeddings" beside the output: stop it whenever you like, the same command goes on, and another task on the same data
starts where this one ended.

What differs from clip-benchmark: ties count against the model; SigLIP's prompts are in lower case without punctuation,
as big_vision evaluates it (--canonicalize False for prompts as they are); linear_probe is big_vision's, least squares
in closed form, not logistic regression by gradient descent.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from diptych.core.data.decoder import Decode
from diptych.core.data.sources.open import EMBEDDED
from diptych.core.data.sources.reading import AS_USUAL, Reading
from diptych.engine.command_line import parse
from diptych.engine.flags import check_least

if TYPE_CHECKING:
    from diptych.core.evaluation.judged import Evaluated
    from diptych.core.training.signals import StopSignals
    from diptych.engine.judging.sets import Dataset

FORMAT = "diptych-evaluation"
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Which model, on what, and how."""

    model: str = "emoji_36_languages"
    """A trained model: a folder (of a checkpoint, or of a run), hf://owner/name, or emoji_36_languages."""
    data: tuple[str, ...] = (EMBEDDED,)
    """One or several: "emoji" for the embedded data; a folder in clip-benchmark's layout; a folder with a folder a
    class; images with captions (a folder, WebDataset shards, Parquet files). Or one with questions, such as VQAv2's,
    which a PaliGemma is asked as `recipes.judge_answers` asks it."""
    split: str = "test"
    """Of data sets that have several."""
    task: Literal["auto", "zeroshot_retrieval", "zeroshot_classification", "linear_probe"] = "auto"
    """auto: retrieval where there are captions, zero-shot classification where there are classes, all three on the
    emoji.
    """
    output: Path = Path("runs/evaluate/results.json")
    """Results; the page is written beside it, as .html."""
    recall_k: tuple[int, ...] = (1, 5, 10)
    """For retrieval."""
    fewshot_k: int = 10
    """Images a class for linear_probe; mean over three draws."""
    templates: tuple[str, ...] = ()
    """"a photo of a {}", or files with one a line (or a JSON list); by default the data set's, else seven general
    ones.
    """
    classes: tuple[str, ...] = ()
    """Names of the classes in the order of their numbers (of their folders): "cat,dog,polar bear", or a file with one a
    line (or a JSON list)."""
    canonicalize: bool | None = None
    """Prompts in lower case without punctuation; by default for models with a bias (SigLIP), not for CLIP."""
    batch_size: int = 64
    """Images that the model takes at a time."""
    workers: int | None = None
    """Threads that decode; by default as many as there are processors."""
    seed: int = 0
    """Of the drawing of shots and of the bootstrap."""
    decode: Decode = "exact"
    """fast decodes JPEGs at a reduced scale and resizes by OpenCV (pip install 'diptych[fast]'), some grey levels off
    (docs/data.md); exact is Pillow."""
    reading: Reading = AS_USUAL

    def __post_init__(self):
        check_least(self, batch_size=1, workers=1, fewshot_k=1, recall_k=1, seed=0)
        if not self.recall_k:
            raise ValueError("--recall-k needs at least one number.")
        if not self.data:
            raise ValueError("--data needs at least one data set.")


def main(arguments: list[str] | None = None) -> int:
    """Evaluates; returns the exit status."""
    options = parse(Evaluate(), arguments, program="python -m recipes.evaluate", description=__doc__)
    from diptych.engine.embedding.encoder import Encoder
    from diptych.engine.failures import exit_status

    return exit_status(lambda: evaluate(options, Encoder.open), options)


def evaluate(options: Evaluate, open_encoder: Callable[[str], Any]) -> int:
    """Everything after the command line. `open_encoder` makes an encoder of the model's name: `Encoder.open`."""
    from diptych.engine.datasets.questions import asks
    from diptych.engine.failures import stoppable
    from diptych.engine.judging.sets import open_dataset

    asking = [spec for spec in options.data if Path(spec.partition("#")[0]).exists() and asks(spec)]
    if asking and len(options.data) > 1:
        raise ValueError(
            f"{asking[0]} asks questions, which a PaliGemma answers: judge each such data set by a command of its own."
        )
    if asking:
        return _judge_answers(options)
    datasets = [
        open_dataset(
            spec,
            split=options.split,
            class_names=options.classes,
            templates=options.templates,
            index_folder=options.output.parent / "shards",
            reading=options.reading,
        )
        for spec in options.data
    ]
    encoder = open_encoder(options.model)
    if options.decode != "exact":
        encoder = encoder.decoding(options.decode)
    return stoppable(lambda stop: _evaluate(options, datasets, encoder, stop))


def _judge_answers(options: Evaluate) -> int:
    from diptych.engine.answering import Answerer
    from diptych.engine.failures import stoppable
    from diptych.recipes.judge_answers import JudgeAnswers, judge_answers

    asked = JudgeAnswers(
        model=options.model, data=options.data[0], batch_size=options.batch_size, output=options.output
    )
    return stoppable(lambda stop: judge_answers(asked, Answerer.open, stop))


def _evaluate(options: Evaluate, datasets: "list[Dataset]", encoder: Any, stop: "StopSignals") -> int:
    from diptych.core.data.ledger import ledger_of
    from diptych.core.files.json_objects import write_json
    from diptych.core.report.evaluation_table import evaluation_text
    from diptych.core.report.ledger_text import tell_left_out
    from diptych.engine.embedding.stored_embeddings import StoredEmbeddings
    from diptych.engine.judging.header import header, judged_model
    from diptych.engine.judging.page import without_large_tables, write_evaluation_page
    from diptych.engine.judging.tasks import judge

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
            result
            for dataset in datasets
            for result in judge(
                store,
                dataset,
                task=options.task,
                recall_k=options.recall_k,
                fewshot_k=options.fewshot_k,
                canonicalize=options.canonicalize,
                seed=options.seed,
            )
        ]
    beginning = header(FORMAT, VERSION, options)
    evaluation: Evaluated = {**beginning, "model": judged_model(options.model, store), "results": results}
    print("\n" + evaluation_text(results), flush=True)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.output, without_large_tables(evaluation))
    page = write_evaluation_page(options.output.with_suffix(".html"), evaluation, datasets, store)
    tell_left_out(ledger_of(each.source) for dataset in datasets for each in dataset.sets)
    print(f"\nResults: {options.output}\nPage: {page.resolve().as_uri()}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
