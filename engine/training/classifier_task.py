"""The task of a classifier: an image tower of any checkpoint, and a head that tells classes apart."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from diptych.core.data.examples.augmentation import Augmentation
from diptych.core.data.examples.naflex import NaFlex
from diptych.core.data.examples.preprocess import Preprocess
from diptych.core.data.examples.rand_augment import RandAugment
from diptych.core.data.examples.random_crop import RandomCrop
from diptych.core.data.pixels import FixedSize, Normalization
from diptych.core.data.processor.image_processor import ImageProcessor
from diptych.core.training import checkpoint as saved
from diptych.core.training.learner import Learner
from diptych.core.training.recipe import Data, Model, Optimization, Recipe, Run
from diptych.engine.datasets.data_set import DataSet
from diptych.engine.datasets.labelled import LabelledDataSet, labelled
from diptych.engine.training.checks import missing_checkpoints, refuse_options
from diptych.engine.training.classifier_evaluation import ClassifierEvaluation
from diptych.engine.training.defaults import usual_rates
from diptych.engine.training.origins import origin_of
from diptych.engine.training.plan import picture_size, pictures_of_stage
from diptych.engine.training.saved_model import save_merged
from diptych.engine.training.start import Start, sized
from diptych.engine.training.task import Task
from diptych.engine.training.terms.stage_term import Terms
from diptych.engine.training.zero_shot_before import encoder_of
from diptych.models import BiTConfig, ClassifierConfig, NaFlexVisionConfig, VisionConfig
from diptych.models.counting import count_parameters
from diptych.models.presets import preset_config
from diptych.models.siglip.adapting import pooled_by
from diptych.models.siglip.student import Student

HEAD, POOLING = "classifier/", "image/map_head/"

OF_PAIRS: tuple[tuple[type, str, tuple[str, ...]], ...] = (
    (Data, "data", ("tokenizer", "context_length", "english_share", "captions_per_image", "opening_examples")),
    (Data, "data", ("language_temperature", "balance")),
    (Model, "model", ("init_logit_scale", "init_logit_bias", "max_logit_scale", "keep_logit_bias")),
    (Model, "model", ("pretrained_text", "text_size", "text_depth")),
    (Model, "model", ("lock_text", "lock_text_unlocked_blocks")),
    (Optimization, "optimization", ("text_layer_decay", "loss")),
    (Run, "run", ("retention", "loss_implementation")),
)
"""Options that say something of texts and pairs, which a classifier has not."""


class ClassifierStart(Start):
    """What a classifier begins from: of a checkpoint of two towers the image tower alone."""

    @property
    def name(self) -> str:
        return self.image.name if self.image else self.size

    def weights(self) -> saved.Checkpoint:
        if self.image is None or not isinstance(self.config, ClassifierConfig):
            return super().weights()
        return saved.Checkpoint(step=0, groups={"weights": dict(self.image.weights()), "optimizer": {}}, state={})


def start_of(recipe: Recipe) -> Start:
    """What a recipe begins from.

    Raises:
        FileNotFoundError, ValueError, HubError: for a checkpoint that is not there or cannot be read, and for image
            towers of other families than SigLIP's and BiT's.
    """
    refuse_options(recipe, OF_PAIRS, "is for pairs of pictures and texts, and a classifier has no texts")
    model = recipe.model
    name, flag = model.pretrained or model.pretrained_image, "--pretrained"
    if name is None:
        return ClassifierStart(
            size=model.model, config=_for_classes(preset_config(model.model), f"--model {model.model}")
        )
    origin = origin_of(name, "--pretrained-image", recipe)  # which asks for no vocabulary
    start = ClassifierStart(size=model.model, config=_for_classes(origin.config, f"{flag} {name}"), image=origin)
    if start.pixels.normalization != Normalization():
        raise ValueError(
            f"{flag} {name} does not bring the values of pictures to -1..1. Classifiers are trained from towers whose "
            "pictures lie in -1..1, as SigLIP's do."
        )
    return start


def with_start(recipe: Recipe, start: Start, terms: Terms) -> Recipe:
    """The recipe with what its beginning decides where it said nothing: rate, decay, NaFlex's sequence length."""
    optimization, vision = recipe.optimization, start.config.vision
    stages = recipe.stages
    if isinstance(vision, NaFlexVisionConfig):
        lengths = recipe.model.sequence_lengths or (vision.max_num_patches,)
        stages = tuple(replace(stage, sequence_lengths=lengths, halve_from=max(lengths) + 1) for stage in stages)
    elif recipe.model.sequence_lengths:
        raise ValueError(f"--sequence-lengths are NaFlex's, and {start.name} takes square pictures. Leave them out.")
    rate, decay = usual_rates(recipe, pretrained=start.pretrained)
    given = replace(
        optimization,
        learning_rate=rate if optimization.learning_rate is None else optimization.learning_rate,
        weight_decay=decay if optimization.weight_decay is None else optimization.weight_decay,
    )
    return replace(recipe, optimization=given, stages=stages)


def with_data(recipe: Recipe) -> tuple[Recipe, DataSet]:
    """The labelled data that a recipe names, and the recipe with what they decide."""
    data_set = labelled(recipe.data, recipe.classification)
    augment = data_set.augment if recipe.data.augment is None else recipe.data.augment
    return replace(recipe, data=replace(recipe.data, augment=augment)), data_set


def preprocess_of(recipe: Recipe, start: Start, data_set: DataSet) -> Preprocess:
    """How pictures become arrays, without texts."""
    options, size = recipe.classification, picture_size(recipe, start)
    whole = recipe.data.resize_method or start.pixels.resize
    changed = options.random_crop_resize or whole
    changes: Augmentation | RandAugment | None = Augmentation() if recipe.data.augment else None
    if options.rand_augment is not None:
        count, magnitude = options.rand_augment
        changes = RandAugment(count=count, magnitude=magnitude, resize_method=changed)
    augmentation: Augmentation | RandAugment | RandomCrop | None = changes
    if options.random_crop is not None or options.flip or options.flip_vertical or options.shift:
        area = 1.0 if options.random_crop is None else options.random_crop
        augmentation = RandomCrop(
            area=area,
            flip=options.flip,
            flip_vertical=options.flip_vertical,
            shift=options.shift,
            resize_method=changed,
            then=changes,
        )
    edge = options.shortest_edge
    if edge is not None and (edge < size or isinstance(start.config.vision, NaFlexVisionConfig)):
        raise ValueError(
            f"--shortest-edge is at least as long as the square that is cut out, {size} px, and NaFlex cuts none; got "
            f"{edge} for {start.name}."
        )
    return Preprocess(
        image_size=size,
        context_length=1,
        tokenizer_path="",
        captions=0,
        augmentation=augmentation,
        resize_method=whole,
        decode=recipe.data.decode,
        shortest_edge_ratio=start.shortest_edge_ratio if edge is None else edge / size,
    )


def config_of(recipe: Recipe, start: Start, data_set: DataSet, preprocess: Preprocess) -> ClassifierConfig:
    """The checkpoint's own classes, where it has a head for all that the data have; else the data's."""
    if not isinstance(data_set, LabelledDataSet):
        raise TypeError(f"{data_set.name} has no classes.")
    options, own = recipe.classification, start.config
    vision: Any = sized(own.vision, recipe.model.image_size)
    pooling = options.pooling or vision.pooling
    vision = pooled_by(vision, pooling)
    if options.fresh_pooling and pooling != "map":
        raise ValueError(f"--fresh-pooling draws the attention pooling anew, and --pooling is {pooling}: give map.")
    names = data_set.class_names.names
    if isinstance(own, ClassifierConfig) and set(names) <= set(own.classes):
        names = own.classes
    return ClassifierConfig(vision=vision, classes=names, several_labels=options.several_labels)


def described(recipe: Recipe, start: Start, config: ClassifierConfig) -> str:
    """What a run begins from, in a line for people: whence its tower and its head, and which classes there are."""
    vision, own = config.vision, start.config
    pictures = (
        f"NaFlex, {vision.max_num_patches} patches"
        if isinstance(vision, NaFlexVisionConfig)
        else f"{vision.image_size} px"
    )
    million = count_parameters(config)["total"] / 1e6
    tower = f"fresh weights of the size {start.size}"
    if start.image is not None:
        tower = f"the image tower of {start.name} ({start.image.checkpoint.layout})"
    head = f"a fresh head for {len(config.classes)} classes"
    if isinstance(own, ClassifierConfig):
        same = own.classes == config.classes
        head = f"its own head for {len(config.classes)} classes" if same else f"{head}, where it has {len(own.classes)}"
    names = ", ".join(config.classes[:5]) + (", ..." if len(config.classes) > 5 else "")
    labels = "any number of labels" if config.several_labels else "one label"
    return (
        f"Begins from {tower}: {million:,.1f} M parameters, pictures of {pictures}, patches of "
        f"{vision.patch_size}, pooled by {vision.pooling}; {head} ({names}), {labels} a picture"
    )


def anew(recipe: Recipe, start: Start, config: ClassifierConfig) -> tuple[str, ...]:
    """A head for other classes, and the attention pooling where it is to be learned."""
    other = isinstance(start.config, ClassifierConfig) and start.config.classes != config.classes
    return (*((HEAD,) if other else ()), *((POOLING,) if recipe.classification.fresh_pooling else ()))


def save(student: Student, preprocess: Preprocess, folder: Path) -> None:
    """Writes a folder that `ImageClassifier.from_preset` reads."""
    vision = student.config.vision
    pixels: FixedSize | NaFlex
    if isinstance(vision, NaFlexVisionConfig):
        pixels = NaFlex(
            patch_size=vision.patch_size, max_num_patches=vision.max_num_patches, resize=preprocess.resize_method
        )
    else:
        pixels = preprocess.fixed_size(vision.image_size)
    student.towers.processor = ImageProcessor(pixels=pixels)
    save_merged(student, folder)


def _settle(learner: Learner, recipe: Recipe, start: Start, evaluation: ClassifierEvaluation) -> str:
    """Judges the checkpoint by words alone, where it reads them."""
    if learner.placement.writes:
        evaluation.judge_before(encoder_of(start))
    return ""


def _missing_flags(recipe: Recipe, start: Start) -> list[str]:
    missing = [] if recipe.data.train_data else ["--train-data (pictures with labels)"]
    return missing if start.pretrained else [*missing, *missing_checkpoints(recipe.model)]


def _for_classes(config: Any, given: str) -> Any:
    if isinstance(config.vision, VisionConfig | NaFlexVisionConfig | BiTConfig):
        return config
    raise ValueError(f"{given} is no image tower of SigLIP's, SigLIP 2's or BiT's, which classifiers are made of.")


CLASSES = Task(
    start_of=start_of,
    with_start=with_start,
    with_data=with_data,
    preprocess=preprocess_of,
    of_stage=pictures_of_stage,
    config=config_of,
    described=described,
    missing_flags=_missing_flags,
    judge=lambda *judged, folder, beginning, stop: ClassifierEvaluation(*judged, beginning=beginning),
    anew=anew,
    may_leave=("text/", "pair_logits/", POOLING, HEAD),
    settle=_settle,
    save=save,
)
