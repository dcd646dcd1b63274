"""Pictures that are embedded once, before the first step, where the image tower stays as it is (LiT, SigLiT).

A locked tower makes the same of a picture in every epoch. Where pictures are not augmented either, a step needs no more
than the vector, and its losses are the same but for rounding (Zhai et al. 2023, section 4.1, trains so).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from diptych.core.data.examples.preprocess import Preprocess
from diptych.core.data.image import decode
from diptych.core.data.ledger import visit
from diptych.core.data.pixels import as_in_training
from diptych.core.data.records import Source
from diptych.core.data.sources.files import evenly
from diptych.core.training.recipe import Recipe
from diptych.core.training.signals import StopSignals
from diptych.engine.datasets.data_set import Sources
from diptych.engine.embedding.augmented_views import AugmentedViews
from diptych.engine.embedding.embedded_pictures import EmbeddedPictures, each_once
from diptych.engine.embedding.encoder import fingerprint_of
from diptych.engine.embedding.stored_embeddings import StoredEmbeddings
from diptych.engine.training.planned_stage import PlannedStage
from diptych.engine.training.terms.stage_term import Terms
from diptych.models import ImageClassifier, SigLIP
from diptych.models.siglip.student import Student

FOLDER = "image_features"
BATCH_SIZE = 64
"""Pictures that are embedded at a time."""
RECORDS_ASKED = 64
"""How many say how many pictures records have."""


def hindrance(recipe: Recipe, planned: PlannedStage, terms: Terms) -> str:
    """Why the image tower must see the pictures of a stage in each step; empty where they can be embedded once."""
    stage, options = planned.stage, recipe.classification
    looking = next((name for name in stage.losses if not terms[name].pooled_alone), None)
    found = (
        ("image" not in planned.locked, "its image tower moves: --lock-image, without open blocks, leaves it as it is"),
        (
            recipe.data.augment and recipe.data.image_views is None,
            "its pictures are augmented: --no-augment leaves them as they are, --image-views embeds some views of each",
        ),
        (recipe.data.image_views is not None and not recipe.data.augment, "without --augment all views are the same"),
        (
            any((options.mixup, options.random_crop, options.flip, options.flip_vertical, options.shift))
            or options.rand_augment is not None,
            "its pictures are cropped, mirrored, moved, mixed or changed at random",
        ),
        (planned.naflex, "NaFlex sees pictures at a length that is drawn for each batch"),
        (stage.curation, "its batches are chosen by what models see in their pictures"),
        (looking, f"its loss {looking} looks at more of a picture than the pooled features"),
    )
    return next((why for holds, why in found if holds), "")


def as_asked(recipe: Recipe, planned: PlannedStage, terms: Terms) -> PlannedStage:
    """The stage, with its pictures embedded once where that can be and is not refused.

    Raises:
        ValueError: where it is asked for and cannot be.
    """
    why_not = hindrance(recipe, planned, terms)
    once = recipe.run.embed_images_once
    if recipe.data.image_views is not None and once is False:
        why_not = "--no-embed-images-once says so"
    if why_not and asked_for(recipe):
        flag = "--embed-images-once" if recipe.data.image_views is None else "--image-views"
        raise ValueError(f"Stage {planned.stage.name}: {flag} cannot be, because {why_not}.")
    return replace(planned, embeds_images=not why_not and once is not False)


def asked_for(recipe: Recipe) -> bool:
    """Whether a flag asks for embedding."""
    return bool(recipe.run.embed_images_once or recipe.data.image_views is not None)


def as_it_pays(recipe: Recipe, planned: Mapping[str, PlannedStage], sources: Sources) -> Mapping[str, PlannedStage]:
    """The stages, without the embedding of more pictures than are trained on, unless it is asked for."""
    if asked_for(recipe) or not any(stage.embeds_images for stage in planned.values()):
        return planned
    pictures = about(sources.train)
    return {
        name: replace(stage, embeds_images=stage.embeds_images and stage.examples >= pictures)
        for name, stage in planned.items()
    }


def about(source: Source) -> int:
    """About how many pictures a source holds, by some of its records."""
    looked_at = evenly(range(len(source)), RECORDS_ASKED)
    counts = [images for _, images in visit(source, lambda record: len(record.images), looked_at)]
    return round(len(source) * sum(counts) / max(1, len(counts)))


def described(recipe: Recipe, planned: Mapping[str, PlannedStage], terms: Terms) -> list[str]:
    """For each stage with a locked image tower a line that says when the tower sees the pictures."""
    lines, views = [], recipe.data.image_views
    for name, stage in planned.items():
        if stage.embeds_images:
            what = f"{views} random views of each picture" if views else "each picture once"
            instead = "" if views else " (--no-embed-images-once has the tower see pictures in each step)"
            lines.append(
                f"{name}: the locked image tower embeds {what}, before the first step, and steps read vectors{instead}"
            )
        elif "image" in stage.locked:
            why = hindrance(recipe, stage, terms) or (
                "--no-embed-images-once says so"
                if recipe.run.embed_images_once is False
                else "there are more of them than examples are trained on"
            )
            lines.append(f"{name}: the locked image tower sees pictures in each step, because {why}")
    return lines


def as_embedded(recipe: Recipe, preprocess: Preprocess, source: Source) -> tuple[Preprocess, EmbeddedPictures]:
    """How a stage's examples are made, and of what, where its pictures are embedded before, from exact pixels."""
    views, seed = recipe.data.image_views, recipe.run.seed
    preprocess = replace(preprocess, decode="exact")
    shown = None if views is None else AugmentedViews(each_once(source), preprocess, views=views, seed=seed)
    return replace(preprocess, embedded=True, augmentation=None), EmbeddedPictures(source, shown)


def embed_once(
    recipe: Recipe,
    pictures: EmbeddedPictures,
    student: Student,
    preprocess: Preprocess,
    stop: StopSignals,
) -> None:
    """Embeds all pictures of a stage, or goes on embedding them, and says to `pictures` where their vectors are.

    Raises:
        Stopped: a signal came; what was embedded is kept.
        ValueError, TooManySkipped: too many pictures cannot be used.
    """
    store = StoredEmbeddings(
        recipe.run.embeddings_dir or recipe.run.run_dir / FOLDER,
        LockedTower(student.towers, preprocess),
        model=recipe.model.pretrained or recipe.model.pretrained_image or recipe.model.model,
        batch_size=BATCH_SIZE,
        stop=stop,
    )
    pictures.index = store.image_index(pictures.pictures, recipe.data.train_data).path


@dataclass(frozen=True)
class LockedTower:
    """Stands where `StoredEmbeddings` takes an encoder: the image tower of a student, and pictures prepared as in
    training.
    """

    model: SigLIP | ImageClassifier
    preprocess: Preprocess

    @property
    def processor(self) -> "LockedTower":
        return self

    def images(self, encoded: list[bytes]) -> dict[str, np.ndarray]:
        """Encoded pictures -> {"images": float32 [n, size, size, 3]}, in the last bit as a step makes them."""
        pictures = np.stack([self.preprocess.image(decode(data)) for data in encoded])
        return {"images": as_in_training(pictures, self.preprocess.normalization)}

    @cached_property
    def dim(self) -> int:
        return self.model.config.vision.output_width

    def fingerprint(self) -> str:
        """Of the image tower's weights and of how pictures are prepared for it."""
        tower, preprocess = self.model.image_encoder, self.preprocess
        policy, pictures = tower.get_config()["dtype"], preprocess.fixed_size(preprocess.image_size)
        return fingerprint_of(tower, f"{pictures} {policy}")
