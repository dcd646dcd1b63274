"""Labelled texts as a data set: a task's examples as sequences of tokens, of which a part is held out."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.core.data.text_tasks.embedded import EMBEDDED_TASKS, embedded_task
from diptych.core.data.text_tasks.formats import FORMATS
from diptych.core.data.text_tasks.opening import HELD_OUT, drawn_split, format_of, open_task_texts
from diptych.core.data.text_tasks.sequences import TokenizedTexts
from diptych.core.data.text_tasks.source import TextSource
from diptych.core.data.text_tasks.task import TextTask
from diptych.core.data.tokenizers.bpe_training import train_gpt_tokenizer
from diptych.core.data.tokenizers.gpt_bpe import GptTokenizer
from diptych.core.progress import ProgressDisplay
from diptych.core.training.recipe import Data
from diptych.core.training.term_options import Answering, Language
from diptych.engine.datasets.data_set import DataSet, Sources
from diptych.engine.datasets.texts import USUAL_MERGES

INTERVAL_S = 5.0


@dataclass(frozen=True, kw_only=True)
class TextTaskDataSet(DataSet):
    """A task's examples as sequences.

    Attributes:
        task: what they are of.
        vocabulary: by which they are tokenized; None where there is neither one nor data.
        train, held_out: the examples, the held-out ones by the name of the set; None and none of a plan without data.
    """

    task: TextTask
    vocabulary: GptTokenizer | None
    train: TokenizedTexts | None
    held_out: Mapping[str, TokenizedTexts]

    @property
    def longest(self) -> int | None:
        """Tokens of the longest sequence of all sets; None without data."""
        sets = [] if self.train is None else [self.train, *self.held_out.values()]
        return max((one.longest for one in sets), default=None)


def task_of_name(name: str) -> TextTask:
    """The task of a name, embedded or not; raises ValueError for a name that there is not."""
    if name in EMBEDDED_TASKS:
        return EMBEDDED_TASKS[name]
    if name not in FORMATS:
        raise ValueError(f"There is no task {name!r}; there are {', '.join([*EMBEDDED_TASKS, *FORMATS])}.")
    return FORMATS[name].task


def text_tasks(data: Data, options: Answering, language: Language) -> TextTaskDataSet:
    """The examples of `options.task` in `data.train_data`, judged on `data.val_data`, on the task's own held-out files,
    or on a part of the training examples.

    All texts are read and tokenized at once, because the longest sequence decides the shape of a batch.

    Args:
        data: of which the context length is that of the model, and the tokenizer that of its vocabulary; without one
            a vocabulary is learned from the texts to train on, as `language` says.

    Raises:
        FileNotFoundError, ValueError: for data that are not there or not of the task, and where nothing is held out.
        TooManySkipped: see `core.data.ledger`.
    """
    task, length = task_of_name(options.task), data.context_length
    if length is None:
        raise ValueError("The recipe is not resolved: pass it through the task's with_start first.")
    tokenizer = None if data.tokenizer is None else GptTokenizer.open(data.tokenizer, way=language.way)
    if not data.train_data and task.name not in EMBEDDED_TASKS:
        return _of(task, task.name, tokenizer, None, {})
    train, held_out = _opened(task, data)
    if tokenizer is None:
        merges = language.merges or USUAL_MERGES
        tokenizer = train_gpt_tokenizer(_texts(train), merges=merges, way=language.way or "paper")
    tokenized = _tokenized(train, tokenizer, length)
    sets = {name: _tokenized(source, tokenizer, length) for name, source in held_out.items()}
    if not sets or (_has_split(task) and data.val_data is None):
        tokenized, part = _split(tokenized, data)
        sets = {HELD_OUT: part, **sets}
    return _of(task, data.train_data or task.name, tokenizer, tokenized, sets)


def _of(
    task: TextTask,
    name: str,
    vocabulary: GptTokenizer | None,
    train: TokenizedTexts | None,
    held_out: Mapping[str, TokenizedTexts],
) -> TextTaskDataSet:
    def sources(seed: int) -> Sources:
        if train is None:
            raise ValueError("A plan without data opens none: give --train-data.")
        opened: Any = held_out
        return Sources(train=train, held_out=opened)  # type: ignore[arg-type]

    return TextTaskDataSet(
        name=f"{task.name}, {name}" if name != task.name else name,
        sources=sources,
        tokenizer=Path(),
        most_evaluated=None,
        task=task,
        vocabulary=vocabulary,
        train=train,
        held_out=held_out,
    )


def _opened(task: TextTask, data: Data) -> tuple[TextSource, Mapping[str, TextSource]]:
    most = data.reading.max_skipped
    if task.name not in EMBEDDED_TASKS:
        return open_task_texts(format_of(task.name), data.train_data, data.val_data, max_skipped=most)
    if data.train_data not in ("", task.name) or data.val_data is not None:
        raise ValueError(
            f"The task {task.name} is made of data that come along, got --train-data {data.train_data}. Leave it and "
            f"--val-data out, or choose the task that your data are of: {', '.join(FORMATS)}."
        )
    train, held_out = embedded_task(task.name, max_skipped=most)
    return train, {HELD_OUT: held_out}


def _texts(source: TextSource) -> list[str]:
    """All texts that can be used; the others are counted when they are tokenized."""
    found: list[str] = []
    for index in range(len(source)):
        try:
            example = source.record(index)
        except ValueError:
            continue
        found += [*example.texts, *example.answers]
    return found


def _tokenized(source: TextSource, tokenizer: GptTokenizer, length: int) -> TokenizedTexts:
    display = ProgressDisplay("example", len(source), waiting="reading", interval_s=INTERVAL_S)
    began = last = time.monotonic()

    def progress(done: int, of: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= INTERVAL_S and display.due(now):
            last = now
            display.show(now, done, [f"{done / (now - began):,.0f} examples/s", source.name])

    try:
        return TokenizedTexts(source, tokenizer, length=length, progress=progress)
    finally:
        display.close()


def _has_split(task: TextTask) -> bool:
    """Whether the released code holds out a part of the task's only file with labels."""
    return task.name in FORMATS and FORMATS[task.name].split is not None


def _split(examples: TokenizedTexts, data: Data) -> tuple[TokenizedTexts, TokenizedTexts]:
    """(trained on, held out) of one file: as the released code splits the task, else a share by key."""
    split = FORMATS[examples.task.name].split
    if split is not None and split[0] < len(examples):
        places = drawn_split(len(examples), *split)
        train, held_out = (examples.part(part.tolist()) for part in places)
    else:
        train, held_out = examples.split(data.val_fraction)
    if not len(held_out) or not len(train):
        what = "train on" if len(held_out) else "judge"
        raise ValueError(
            f"Of {len(examples)} examples of {data.train_data} none is left to {what} with --val-fraction "
            f"{data.val_fraction:g}. Change it, or give --val-data."
        )
    return train, held_out
