"""The task of a language model that answers questions about texts: a GPT's decoder, and a head on its last state."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from diptych.core.data.text_tasks.layouts import SPECIAL_TOKENS
from diptych.core.data.text_tasks.sequences import SequenceFields
from diptych.core.data.tokenizers.gpt_bpe import GptTokenizer
from diptych.core.training.recipe import Recipe
from diptych.core.training.term_options import EPOCHS_SAY
from diptych.engine.datasets.data_set import DataSet
from diptych.engine.datasets.text_tasks import EMBEDDED, EMBEDDED_TASKS, TextTaskDataSet, text_tasks
from diptych.engine.training.answering_evaluation import AnsweringEvaluation
from diptych.engine.training.answering_start import AnsweringStart, start_of
from diptych.engine.training.defaults import FRESH_RATE
from diptych.engine.training.task import Task
from diptych.engine.training.terms.stage_term import Terms
from diptych.models import GPTDoubleHeadsConfig
from diptych.models.gpt.double_heads_config import count_double_heads_parameters

RATE, DECAY = 6.25e-5, 0.01
"""Of the paper (section 4.1, "Fine-tuning details"); the decay is a share of the rate, as in the released code."""
WARMUP = 0.002
"""Share of the examples."""


def with_start(recipe: Recipe, start: AnsweringStart, terms: Terms) -> Recipe:
    """The recipe with what its beginning decides where it said nothing: rate, decay, places; and with the weight of the
    language model's loss.
    """
    optimization, most = recipe.optimization, start.decoder.context_length
    usual = RATE if start.pretrained else FRESH_RATE
    rate = usual if optimization.learning_rate is None else optimization.learning_rate
    decay = DECAY * rate if optimization.weight_decay is None else optimization.weight_decay
    length = recipe.data.context_length or most
    if length > most:
        raise ValueError(f"--context-length {length} is more than the {most} positions of {start.name}.")
    weight = recipe.answering.language_weight
    return replace(
        recipe,
        data=replace(recipe.data, context_length=length, tokenizer=start.vocabulary_folder),
        optimization=replace(optimization, learning_rate=rate, weight_decay=decay),
        stages=tuple(replace(stage, losses=_losses(stage.losses, weight)) for stage in recipe.stages),
    )


def _losses(losses, weight: float) -> dict[str, float]:
    kept = {name: one for name, one in losses.items() if name != "language"}
    return kept | ({"language": weight} if weight else {})


def with_data(recipe: Recipe) -> tuple[Recipe, TextTaskDataSet]:
    """The texts that a recipe names, and the recipe with what they decide: how many examples its epochs are, its
    warm-up, and that it is evaluated after each epoch.

    Raises:
        ValueError: for --examples beside --epochs, and for fewer examples than a batch.
    """
    data, options, optimization = recipe.data, recipe.answering, recipe.optimization
    if not data.train_data and options.task in EMBEDDED_TASKS:
        data = replace(data, train_data=EMBEDDED)
    vocabulary = None if data.tokenizer is None else GptTokenizer.open(data.tokenizer, way=options.words)
    data_set = text_tasks(data, options, vocabulary)
    run, examples = recipe.run, optimization.examples
    count = 0 if data_set.train is None else len(data_set.train)
    epoch = count // optimization.batch_size * optimization.batch_size
    if options.epochs is not None and examples != EPOCHS_SAY:
        raise ValueError(
            f"--examples {examples} and --epochs {options.epochs:g} both say how long: leave one out, --epochs by "
            "--epochs None."
        )
    if count and not epoch:
        raise ValueError(
            f"{data_set.name} has {count} examples to train on, and a batch takes {optimization.batch_size}: lower "
            "--batch-size."
        )
    if options.epochs is not None:
        examples = max(round(options.epochs * epoch), optimization.batch_size)
    warmup = optimization.warmup_examples
    return (
        replace(
            recipe,
            data=data,
            answering=replace(options, epochs=None),
            optimization=replace(
                optimization,
                examples=examples,
                warmup_examples=max(1, round(WARMUP * examples)) if warmup is None else warmup,
            ),
            run=run if run.evaluate_every or not epoch else replace(run, evaluate_every=epoch),
        ),
        data_set,
    )


def preprocess_of(recipe: Recipe, start: AnsweringStart, data_set: DataSet) -> SequenceFields:
    """How examples become arrays."""
    texts = _texts(data_set)
    return SequenceFields(length=texts.longest or start.decoder.context_length, vocabulary=texts.vocabulary)


def config_of(
    recipe: Recipe, start: AnsweringStart, data_set: DataSet, preprocess: SequenceFields
) -> GPTDoubleHeadsConfig:
    """The start's decoder, with rows for the special tokens, and a head for the task."""
    decoder, vocabulary = start.decoder, preprocess.vocabulary
    if start.found is None and vocabulary is not None:
        decoder = replace(decoder, vocab_size=vocabulary.vocab_size + len(SPECIAL_TOKENS))
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
    if start.found is not None:
        blocks = start.transfer_layers
        what = "the weights" if blocks is None else f"the tables and {blocks} of {config.decoder.depth} blocks"
        whence = f"{what} of {start.name} ({start.found.layout})"
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


def _judge(*judged: Any, folder: Path, beginning: Path, stop: Any) -> AnsweringEvaluation:
    return AnsweringEvaluation(*judged)


ANSWERS = Task(
    start_of=start_of,
    with_start=with_start,  # type: ignore[arg-type]
    with_data=with_data,
    preprocess=preprocess_of,  # type: ignore[arg-type]
    of_stage=lambda planned, preprocess: preprocess,
    config=config_of,  # type: ignore[arg-type]
    described=described,  # type: ignore[arg-type]
    missing_flags=_missing_flags,  # type: ignore[arg-type]
    judge=_judge,
    anew=lambda recipe, start, config: (),
    settle=lambda learner, recipe, start, evaluation: "",
    save=save,
)
