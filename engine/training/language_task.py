"""The task of a language model: texts, each token of which is predicted from those before it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diptych.core.data.texts.windows import WindowExamples
from diptych.core.data.tokenizers.gpt_bpe import GptTokenizer
from diptych.core.training import checkpoint as saved
from diptych.core.training.recipe import Data, Model, Optimization, Recipe, Run
from diptych.core.weights.hub import preset_folder
from diptych.engine.datasets.data_set import DataSet
from diptych.engine.datasets.texts import TextDataSet, texts
from diptych.engine.training.checks import refuse_options
from diptych.engine.training.defaults import usual_rates
from diptych.engine.training.language_evaluation import LanguageEvaluation
from diptych.engine.training.origins import Origin
from diptych.engine.training.start import Start
from diptych.engine.training.task import Task
from diptych.engine.training.terms.stage_term import Terms
from diptych.models.checkpoints import read_checkpoint
from diptych.models.counting import count_parameters
from diptych.models.gpt.config import RATES, GPTConfig
from diptych.models.gpt.presets import PRESETS
from diptych.models.pretrained import trained_preset
from diptych.models.siglip.student import Student

TOKEN_TABLE = "decoder/token_embedding/"

OF_PICTURES: tuple[tuple[type, str, tuple[str, ...]], ...] = (
    (Data, "data", ("english_share", "captions_per_image", "opening_examples", "augment", "image_views")),
    (Data, "data", ("resize_method", "language_temperature", "balance")),
    (Model, "model", ("pretrained_image", "pretrained_text", "text_size", "text_depth", "image_size")),
    (Model, "model", ("sequence_lengths", "init_logit_scale", "init_logit_bias", "max_logit_scale")),
    (Model, "model", ("keep_logit_bias", "lock_image", "lock_text", "lora_rank")),
    (Optimization, "optimization", ("image_layer_decay", "text_layer_decay", "loss")),
    (Run, "run", ("retention", "loss_implementation", "embed_images_once", "embeddings_dir")),
)
"""Options that say something of pictures and of pairs, which a language model has not."""


@dataclass(frozen=True, kw_only=True)
class TextStart(Start):
    """What a language model begins from: fresh weights of a size, or a checkpoint.

    Attributes:
        origin: the checkpoint; None for fresh weights.
    """

    origin: Origin | None = None

    @property
    def pretrained(self) -> bool:
        return self.origin is not None

    @property
    def folder(self) -> Path | None:
        return self.origin.folder if self.origin else None

    @property
    def name(self) -> str:
        return self.origin.name if self.origin else self.size

    def weights(self) -> saved.Checkpoint:
        if self.origin is None:
            return super().weights()
        return saved.Checkpoint(step=0, groups={"weights": dict(self.origin.weights()), "optimizer": {}}, state={})


def start_of(recipe: Recipe, kinds: tuple[type, ...] = (GPTConfig,)) -> TextStart:
    """What a recipe begins from; `kinds` are the configurations that its checkpoint may have.

    Raises:
        FileNotFoundError, ValueError, HubError: for a checkpoint that is not there or cannot be read, for models of
            other families, and for options of pictures.
    """
    refuse_options(recipe, OF_PICTURES, "is for pictures, and a language model reads texts alone")
    model = recipe.model
    if model.pretrained is None:
        if model.model not in PRESETS:
            raise ValueError(f"--model {model.model} is no size of GPT: there are {', '.join(PRESETS)}.")
        return TextStart(size=model.model, config=PRESETS[model.model])
    path = preset_folder(trained_preset(model.pretrained), known=PRESETS)
    checkpoint, folder = read_checkpoint(path), path if path.is_dir() else path.parent
    if not isinstance(checkpoint.config, kinds):
        raise ValueError(f"--pretrained {model.pretrained} is a {checkpoint.config.describes}, and a GPT is expected.")
    try:
        GptTokenizer.open(folder, way=recipe.language.way)
        own: Path | None = folder
    except FileNotFoundError as error:
        own = None
        if recipe.data.tokenizer is None:
            raise ValueError(
                f"--pretrained {model.pretrained} brings no vocabulary ({error}). Give the one it was trained with by "
                "--tokenizer."
            ) from error
    origin = Origin(name=model.pretrained, checkpoint=checkpoint, folder=own)
    return TextStart(size=model.model, config=checkpoint.config, origin=origin)


def with_start(recipe: Recipe, start: Start, terms: Terms) -> Recipe:
    """The recipe with what its beginning decides where it said nothing: rate, decay, vocabulary, window."""
    optimization, data, positions = recipe.optimization, recipe.data, start.config.context_length
    rate, decay = usual_rates(recipe, pretrained=start.pretrained)
    length = data.context_length or positions
    if start.pretrained and length > positions:
        raise ValueError(
            f"--context-length {length} is longer than the {positions} positions that {start.name} has: give at most "
            "so many."
        )
    return replace(
        recipe,
        data=replace(data, context_length=length, tokenizer=data.tokenizer or start.folder),
        optimization=replace(
            optimization,
            learning_rate=rate if optimization.learning_rate is None else optimization.learning_rate,
            weight_decay=decay if optimization.weight_decay is None else optimization.weight_decay,
        ),
    )


def with_data(recipe: Recipe) -> tuple[Recipe, DataSet]:
    """The texts that a recipe names, and the recipe with as many examples as its epochs have."""
    data_set = texts(recipe.data, recipe.language, context_length=recipe.data.context_length or 0)
    epochs, size = recipe.language.epochs, recipe.optimization.batch_size
    if epochs is None or data_set.learned is None:
        return recipe, data_set
    windows = len(data_set.learned) // (recipe.data.context_length or 1)
    examples = max(1, windows // size) * size * epochs
    return replace(recipe, optimization=replace(recipe.optimization, examples=examples)), data_set


def examples_of(recipe: Recipe, start: Start, data_set: DataSet) -> WindowExamples:
    """How windows become arrays."""
    known = _texts_of(data_set).words is not None
    return WindowExamples(
        context_length=recipe.data.context_length or start.config.context_length,
        tokenizer_path=str(data_set.tokenizer) if known else "",
        way=recipe.language.way,
        dropout=any(getattr(with_dropout(recipe, start.config), rate) for rate in RATES),
    )


def config_of(recipe: Recipe, start: Start, data_set: DataSet, preprocess: WindowExamples) -> GPTConfig:
    """The beginning's, for the vocabulary of the data; fresh weights have as many positions as a window has tokens.

    Raises:
        ValueError: for a vocabulary with more entries than a checkpoint has rows.
    """
    config, words = with_dropout(recipe, start.config), _texts_of(data_set).words
    if not start.pretrained:
        config = replace(config, context_length=preprocess.context_length)
    if words is None or (start.pretrained and not anew(recipe, start, config)):
        if words is not None and words.vocab_size > config.vocab_size:
            raise ValueError(
                f"The vocabulary {recipe.data.tokenizer} has {words.vocab_size:,} entries, and the table of "
                f"{start.name} {config.vocab_size:,} rows: give the one it was trained with."
            )
        return config
    return replace(config, vocab_size=words.vocab_size)


def anew(recipe: Recipe, start: Start, config: GPTConfig) -> tuple[str, ...]:
    """The table of tokens, where another vocabulary is given than the checkpoint's own."""
    return (TOKEN_TABLE,) if start.folder and recipe.data.tokenizer not in (None, start.folder) else ()


def described(recipe: Recipe, start: Start, config: GPTConfig) -> str:
    """What a run begins from, in a line for people."""
    begins = f"fresh weights of the size {start.size}"
    if isinstance(start, TextStart) and start.origin is not None:
        begins = f"the weights of {start.name} ({start.origin.checkpoint.layout})"
    return (
        f"Begins from {begins}: {count_parameters(config)['total']:,} parameters; windows of "
        f"{recipe.data.context_length:,} tokens, of which there are {config.vocab_size:,}"
    )


def save(student: Student, preprocess: WindowExamples, folder: Path) -> None:
    """Writes a folder that `GPT.from_preset` and `GptTokenizer.open` read."""
    student.towers.save_to_preset(folder, format="diptych")
    preprocess.words.save(folder)


def with_dropout(recipe: Recipe, config: GPTConfig) -> GPTConfig:
    """The configuration with the dropout that the recipe says, where it says something."""
    rate = recipe.language.dropout
    rates: dict[str, Any] = {} if rate is None else dict.fromkeys(RATES, rate)
    return replace(config, **rates)


def _texts_of(data_set: DataSet) -> TextDataSet:
    if not isinstance(data_set, TextDataSet):
        raise TypeError(f"{data_set.name} are no texts.")
    return data_set


def _missing_flags(recipe: Recipe, start: Start) -> list[str]:
    return [] if recipe.data.train_data else ["--train-data (a folder of texts)"]


LANGUAGE = Task(
    start_of=start_of,
    with_start=with_start,
    with_data=with_data,
    preprocess=examples_of,
    config=config_of,
    described=described,
    missing_flags=_missing_flags,
    judge=lambda *judged, folder, beginning, stop: LanguageEvaluation(*judged),
    anew=anew,
    may_leave=(TOKEN_TABLE,),
    save=save,
)
