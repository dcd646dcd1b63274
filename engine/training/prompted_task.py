"""The task of a model that is asked: a PaliGemma learns the answers to prompts about pictures."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from diptych.core.data.examples.prompted_examples import PromptedExamples
from diptych.core.data.pixels import FixedSize
from diptych.core.training.recipe import Recipe
from diptych.engine.datasets.data_set import DataSet
from diptych.engine.datasets.questions import ASKED_SCENES, questions
from diptych.engine.training import defaults
from diptych.engine.training.prompted_evaluation import PromptedEvaluation
from diptych.engine.training.prompted_start import PromptedStart, sized_config, square_of, start_of
from diptych.engine.training.saved_model import save_merged
from diptych.engine.training.task import Task
from diptych.engine.training.terms.stage_term import Terms
from diptych.models import PaliGemmaConfig
from diptych.models.paligemma.config import count_paligemma_parameters
from diptych.models.siglip.student import Student

HELD: Mapping[str, tuple[str, ...]] = {
    "all": (),
    "all-but-image": ("image/.*",),
    "decoder": ("(image|projector)/.*",),
    "attention": ("(image|projector)/.*", r"decoder/(?!block_\d+/attention/).*"),
    "projector": ("(image|decoder)/.*",),
}
"""The patterns of what stays as it is, by what --train names."""


def with_start(recipe: Recipe, start: PromptedStart, terms: Terms) -> Recipe:
    """The recipe with what its beginning decides where it said nothing: rates, decay, vocabulary; and with the patterns
    of what --train leaves as it is.
    """
    recipe = defaults.with_rates(recipe, start, terms)
    held = [pattern for pattern in HELD[recipe.prompted.train] if pattern not in recipe.model.lock]
    return replace(
        recipe,
        model=replace(recipe.model, lock=(*recipe.model.lock, *held)),
        data=replace(recipe.data, tokenizer=recipe.data.tokenizer or start.folder),
    )


def with_data(recipe: Recipe) -> tuple[Recipe, DataSet]:
    """The questions that a recipe names, and the recipe with what they decide: lengths, and how many examples its
    epochs have.

    Raises:
        ValueError: for fewer examples than a batch.
    """
    data_set = questions(recipe.data, recipe.prompted)
    prompted = replace(
        recipe.prompted,
        pictures=data_set.pictures,
        metric=recipe.prompted.metric or data_set.judging.metrics,  # type: ignore[arg-type]
        lower_case=recipe.prompted.lower_case or data_set.judging.lower_case,
    )
    data = replace(recipe.data, context_length=recipe.data.context_length or data_set.context_length)
    optimization, epochs = recipe.optimization, recipe.prompted.epochs
    if epochs is not None and data.train_data:
        records, size = len(data_set.sources(recipe.run.seed).train), optimization.batch_size
        if records < size:
            raise ValueError(
                f"{data_set.name} has {records:,} examples to train on, and a batch takes {size:,}: lower --batch-size."
            )
        examples = max(1, round(epochs * records / size)) * size
        warmup = optimization.warmup_examples
        share = 0.0 if warmup is None else warmup / optimization.examples
        optimization = replace(
            optimization, examples=examples, warmup_examples=None if warmup is None else round(share * examples)
        )
    return replace(recipe, data=data, optimization=optimization, prompted=prompted), data_set


def examples_of(recipe: Recipe, start: PromptedStart, data_set: DataSet) -> PromptedExamples:
    """How records become arrays."""
    data, pixels = recipe.data, start.pixels
    if not isinstance(pixels, FixedSize):
        raise TypeError(f"{start.name} takes patches, and square pictures are trained on.")
    size = square_of(sized_config(start, recipe.model.image_size)).image_size
    vocabulary = data.tokenizer or data_set.tokenizer
    return PromptedExamples(
        pixels=replace(pixels, height=size, width=size, shortest_edge=None, resize=data.resize_method or pixels.resize),
        tokenizer_path="" if vocabulary == Path() else str(vocabulary),
        context_length=data.context_length or data_set.context_length,
        prompt=recipe.prompted.prompt,
        pictures=recipe.prompted.pictures,
    )


def config_of(recipe: Recipe, start: PromptedStart, data_set: DataSet, preprocess: PromptedExamples) -> PaliGemmaConfig:
    """The beginning's, for pictures of the size that is trained on; the table of a model that is not read whole has
    rows for its vocabulary.

    Raises:
        ValueError: for more tokens than there are rows or places.
    """
    config = sized_config(start, recipe.model.image_size)
    pictures = config.vision.num_patches * preprocess.pictures
    longest = pictures + preprocess.context_length
    if longest > config.text.context_length:
        raise ValueError(
            f"Pictures of {pictures:,} tokens and texts of --context-length "
            f"{preprocess.context_length:,} are longer than the {config.text.context_length:,} tokens that "
            f"{start.name} takes: give smaller ones."
        )
    if not preprocess.tokenizer_path:
        return config
    entries, rows = preprocess.processor.tokenizer.vocab_size, config.text.vocab_size
    if start.checkpoint is None and entries > rows:
        return replace(config, text=replace(config.text, vocab_size=entries, predicted_ids=None))
    if entries > rows:
        raise ValueError(
            f"The vocabulary {preprocess.tokenizer_path} has {entries:,} entries, and the table of {start.name} "
            f"{rows:,} rows: give the one it was trained with by --tokenizer."
        )
    return config


def described(recipe: Recipe, start: PromptedStart, config: PaliGemmaConfig) -> str:
    """What a run begins from, in a line for people."""
    begins = f"fresh weights of the size {start.size}"
    if start.checkpoint:
        begins = f"the weights of {start.name} ({start.checkpoint.layout})"
    elif start.pretrained:
        towers = (("image tower", start.image), ("language model", start.text))
        begins = " and ".join(
            f"the {called} of {origin.name}" if origin else f"a fresh {called} of the size {start.size}"
            for called, origin in towers
        )
    tokens = f"{config.vision.num_patches:,} tokens"
    if recipe.prompted.pictures > 1:
        tokens += f" each, {recipe.prompted.pictures} an example"
    return (
        f"Begins from {begins}: {count_paligemma_parameters(config)['total']:,} parameters, pictures of "
        f"{square_of(config).image_size} px, which are {tokens}, texts of up to "
        f"{recipe.data.context_length:,}"
    )


def save(student: Student, preprocess: PromptedExamples, folder: Path) -> None:
    """Writes a folder that `PaliGemma.from_preset` and `PaliGemmaProcessor.from_preset` read."""
    save_merged(student, folder)
    preprocess.processor.save_to_preset(folder)


def _missing_flags(recipe: Recipe, start: PromptedStart) -> list[str]:
    missing = []
    if not recipe.data.train_data:
        missing.append(
            "--train-data (lines of JSON with image, prefix and suffix, a data set of questions, or captions)"
        )
    if not start.pretrained:
        missing.append("--pretrained (a PaliGemma), or --pretrained-image (a SigLIP, whose tower it looks with)")
    elif recipe.data.tokenizer is None and recipe.data.train_data not in ("", *ASKED_SCENES):
        missing.append("--tokenizer (Gemma's vocabulary, which the checkpoint does not bring)")
    return missing


PROMPTED = Task(
    start_of=start_of,
    with_start=with_start,  # type: ignore[arg-type]
    with_data=with_data,
    preprocess=examples_of,  # type: ignore[arg-type]
    config=config_of,  # type: ignore[arg-type]
    described=described,  # type: ignore[arg-type]
    missing_flags=_missing_flags,  # type: ignore[arg-type]
    judge=lambda *judged, folder, beginning, stop: PromptedEvaluation(*judged),
    save=save,
)
