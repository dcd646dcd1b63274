"""The task of a language model that answers questions about texts: a GPT's decoder, and a head on its last state."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from diptych.core.data.text_tasks.layouts import SPECIAL_TOKENS
from diptych.core.data.text_tasks.sequences import SequenceFields
from diptych.core.data.texts.documents import EMBEDDED_VOCABULARY
from diptych.core.training.recipe import Recipe
from diptych.engine.datasets.data_set import DataSet
from diptych.engine.datasets.text_tasks import TextTaskDataSet, text_tasks
from diptych.engine.training.answering_evaluation import AnsweringEvaluation
from diptych.engine.training.answering_start import AnsweringStart, start_of
from diptych.engine.training.defaults import FRESH_RATE
from diptych.engine.training.language_task import with_dropout
from diptych.engine.training.task import Task
from diptych.engine.training.terms.stage_term import Terms
from diptych.models import GPTDoubleHeadsConfig
from diptych.models.gpt.double_heads_config import count_double_heads_parameters

RATE, DECAY = 6.25e-5, 0.01
"""Of the paper (section 4.1, "Fine-tuning details"); the decay is a share of the rate, as in the released code."""
WARMUP = 0.002
"""Share of the examples."""


def with_start(recipe: Recipe, start: AnsweringStart, terms: Terms) -> Recipe:
    """The recipe with what its beginning decides where it said nothing: rate, decay, vocabulary, places; and with the
    weight of the language model's loss.
    """
    optimization, data, most = recipe.optimization, recipe.data, start.decoder.context_length
    usual = RATE if start.pretrained else FRESH_RATE
    rate = usual if optimization.learning_rate is None else optimization.learning_rate
    length = data.context_length or most
    if length > most:
        raise ValueError(f"--context-length {length} is more than the {most} positions of {start.name}: give fewer.")
    vocabulary = data.tokenizer or start.folder
    if not start.pretrained and vocabulary is None and recipe.language.merges is None:
        vocabulary = EMBEDDED_VOCABULARY
    return replace(
        recipe,
        data=replace(data, context_length=length, tokenizer=vocabulary),
        optimization=replace(
            optimization,
            learning_rate=rate,
            weight_decay=DECAY * rate if optimization.weight_decay is None else optimization.weight_decay,
        ),
        stages=tuple(replace(stage, losses=_losses(recipe, stage.losses)) for stage in recipe.stages),
    )


def _losses(recipe: Recipe, losses: Mapping[str, float]) -> dict[str, float]:
    weight = recipe.answering.language_weight
    kept = {name: one for name, one in losses.items() if name != "language"}
    return kept | ({"language": weight} if weight else {})


def with_data(recipe: Recipe) -> tuple[Recipe, TextTaskDataSet]:
    """The texts that a recipe names, and the recipe with what they decide: how many examples its epochs are, its
    warm-up, and that it is evaluated after each epoch.

    Raises:
        ValueError: for fewer examples than a batch.
    """
    data_set = text_tasks(recipe.data, recipe.answering, recipe.language)
    data = recipe.data
    if data_set.train is not None and not data.train_data:
        data = replace(data, train_data=data_set.task.name)
    run, optimization, epochs = recipe.run, recipe.optimization, recipe.language.epochs
    count = 0 if data_set.train is None else len(data_set.train)
    epoch = count // optimization.batch_size * optimization.batch_size
    if count and not epoch:
        raise ValueError(
            f"{data_set.name} has {count} examples to train on, and a batch takes {optimization.batch_size}: lower "
            "--batch-size."
        )
    examples = epochs * epoch if epochs is not None and epoch else optimization.examples
    warmup = optimization.warmup_examples
    changed = replace(
        optimization,
        examples=examples,
        warmup_examples=max(1, round(WARMUP * examples)) if warmup is None else warmup,
    )
    if run.evaluate_every is None and epoch:
        run = replace(run, evaluate_every=epoch)
    return replace(recipe, data=data, optimization=changed, run=run), data_set


def preprocess_of(recipe: Recipe, start: AnsweringStart, data_set: DataSet) -> SequenceFields:
    """How examples become arrays."""
    texts = _texts(data_set)
    return SequenceFields(length=texts.longest or start.decoder.context_length, vocabulary=texts.vocabulary)


def config_of(
    recipe: Recipe, start: AnsweringStart, data_set: DataSet, preprocess: SequenceFields
) -> GPTDoubleHeadsConfig:
    """The start's decoder, with rows for the special tokens, and a head for the task.

    Raises:
        ValueError: for a vocabulary that is not of a checkpoint's rows.
    """
    decoder, vocabulary = with_dropout(recipe, start.decoder), preprocess.vocabulary
    if vocabulary is not None:
        rows = vocabulary.vocab_size + len(SPECIAL_TOKENS)
        if start.pretrained and rows != decoder.vocab_size:
            raise ValueError(
                f"The vocabulary in {recipe.data.tokenizer} has {vocabulary.vocab_size:,} entries, and the token table "
                f"of {start.name} {decoder.vocab_size - len(SPECIAL_TOKENS):,} rows: they do not belong together. Give "
                "the vocabulary that it was trained with by --tokenizer."
            )
        decoder = replace(decoder, vocab_size=rows)
    return GPTDoubleHeadsConfig(
        decoder=decoder,
        task=_texts(data_set).task,
        length=preprocess.length,
        head_dropout=recipe.answering.head_dropout,
    )


def described(recipe: Recipe, start: AnsweringStart, config: GPTDoubleHeadsConfig) -> str:
    """What a run begins from, in a line for people."""
    task, million = config.task, count_double_heads_parameters(config)["total"] / 1e6
    whence = f"fresh weights of the size {start.size}"
    if start.origin is not None:
        blocks = start.transfer_layers
        what = "the weights" if blocks is None else f"the tables and {blocks} of {config.decoder.depth} blocks"
        whence = f"{what} of {start.name} ({start.origin.checkpoint.layout})"
    answers = f"{task.choices} choices" if task.choices else f"{task.outputs} answers"
    return (
        f"Begins from {whence}: {million:,.1f} M parameters, {config.special.start:,} tokens and three special ones, "
        f"sequences of {config.context_length}; a fresh head for {task.name} ({task.layout}, {answers})"
    )


def save(student: Any, preprocess: SequenceFields, folder: Path) -> None:
    """Writes a folder that `GPTDoubleHeads.from_preset` and `GptTokenizer.open` read."""
    student.towers.save_to_preset(folder, format="diptych")
    preprocess.vocabulary.save(folder)


def _texts(data_set: DataSet) -> TextTaskDataSet:
    if not isinstance(data_set, TextTaskDataSet):
        raise TypeError(f"{data_set.name} has no task on texts.")
    return data_set


def _missing_flags(recipe: Recipe, start: AnsweringStart) -> list[str]:
    if recipe.data.train_data:
        return []
    return [f"--train-data (the folder in which {recipe.answering.task} is distributed, or a file of it)"]


ANSWERS = Task(
    start_of=start_of,
    with_start=with_start,  # type: ignore[arg-type]
    with_data=with_data,
    preprocess=preprocess_of,  # type: ignore[arg-type]
    config=config_of,  # type: ignore[arg-type]
    described=described,  # type: ignore[arg-type]
    missing_flags=_missing_flags,  # type: ignore[arg-type]
    judge=lambda *judged, folder, beginning, stop: AnsweringEvaluation(*judged),
    save=save,
)
