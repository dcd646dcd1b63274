"""The tasks of the recipe `dense`, one for each kind of set: read it, fit a probe or ask the decoder, keep pictures."""

from collections.abc import Callable, Mapping
from typing import Any

from diptych.core.evaluation.neighbours import neighbours
from diptych.core.report.box_gallery import Located
from diptych.engine.embedding.picture_features import Writer
from diptych.engine.embedding.progress import EmbeddingProgress
from diptych.engine.judging.dense.options import Dense
from diptych.engine.judging.dense.probes import (
    SHOWN,
    Results,
    fitted_scenes,
    judged_scenes,
    locate,
    locate_in_scenes,
    patch_pictures,
    probe_depth,
    probe_scenes,
    probe_segmentation,
)
from diptych.engine.judging.dense.reader import FeatureReader, MapFeatures
from diptych.engine.judging.dense.sets import ClassifiedPictures, MapSets, PhraseSet
from diptych.models import SigLIP
from diptych.models.siglip.adapting import adapt, to_square
from diptych.models.siglip.config import NaFlexVisionConfig

AT_ONCE = 512  # pictures with phrases whose features are held in memory

Judged = tuple[dict[str, dict[str, Any]], dict[str, Any]]
"""Name of the set -> numbers; and fields of `DensePictures`."""


def square_towers(model, image_size: int | None = None) -> SigLIP:
    """The model with an image tower for square pictures of a size, whose tokens are its patches.

    Args:
        model: a `SigLIP`; a NaFlex one becomes one for squares.
        image_size: pixels; by default the model's own.

    Raises:
        ValueError: for another kind of model.
    """
    if not isinstance(model, SigLIP) or model.config.vision.pooling not in ("map", "gap"):
        raise ValueError(
            "recipes.dense reads the patches of SigLIP's image towers without a class token, got a "
            f"{type(model).__name__} with {getattr(model, 'config', None)}."
        )
    if isinstance(model.config.vision, NaFlexVisionConfig):
        return to_square(model, image_size=image_size)
    return model if image_size in (None, model.config.vision.image_size) else adapt(model, image_size=image_size)


class Judge:
    """Judges one model.

    Args:
        options: of the recipe.
        reader: of its features.
        writer: asks its decoder; None where there is none.
    """

    def __init__(self, options: Dense, reader: FeatureReader, writer: Writer | None):
        self._options, self._reader, self._writer = options, reader, writer

    def judged(self, sets: Mapping[str, Any]) -> tuple[Results, dict[str, Any]]:
        """Results, and fields of `DensePictures`.

        Args:
            sets: kind of result -> what `dense_sets` opened for it; the embedded scenes where there is none.
        """
        if not sets:
            return self._scenes()
        ways: dict[str, Callable[[Any], Judged]] = {
            "segmentation": self._segmentation,
            "depth": self._depth,
            "neighbours": self._neighbours,
            "localization": self._localization,
        }
        results: Results = {}
        pictures: dict[str, Any] = {}
        for kind, opened in sets.items():
            results[kind], shown = ways[kind](opened)
            pictures = shown | pictures
        return results, pictures

    def _scenes(self) -> tuple[Results, dict[str, Any]]:
        print("Drawing scenes", flush=True)
        fitted, scenes = fitted_scenes(), judged_scenes()
        known = self._reader.pictures(fitted.pixels, name="scenes by the training designers")
        found = self._reader.pictures(scenes.pixels, name="scenes by the held-out designer")
        options = self._options
        results, pictures = probe_scenes(known, fitted, found, scenes, pooled=options.pooled, seed=options.seed)
        if self._writer is not None:
            boxes, pictures["located"] = locate_in_scenes(self._writer, scenes, seed=options.seed)
            results |= boxes
        return results, pictures

    def _maps(self, opened: MapSets) -> tuple[MapFeatures, MapFeatures]:
        side = self._options.map_size
        most, name = self._options.train_pictures, f"{opened.name}: training"
        known = self._reader.maps(opened.fitted, side=side, most=most, name=name)
        return known, self._reader.maps(opened.tested, side=side, name=opened.name)

    def _segmentation(self, opened: MapSets) -> Judged:
        known, found = self._maps(opened)
        result, answers = probe_segmentation(
            known.features,
            known.maps,
            found.features,
            found.maps,
            opened.class_names,
            found.shown,
            pooled=self._options.pooled,
            seed=self._options.seed,
        )
        shown = {
            "patches": patch_pictures(found.features, found.shown),
            "segmentation": answers,
            "class_names": opened.class_names,
        }
        return {opened.name: result}, shown

    def _depth(self, opened: MapSets) -> Judged:
        known, found = self._maps(opened)
        pooled, seed = self._options.pooled, self._options.seed
        result = probe_depth(known.features, known.maps, found.features, found.maps, pooled=pooled, seed=seed)
        return {opened.name: result}, {"patches": patch_pictures(found.features, found.shown)}

    def _neighbours(self, opened: tuple[ClassifiedPictures, list[ClassifiedPictures]]) -> Judged:
        train, tested = opened
        known, labels = self._reader.classified(train)
        results = {}
        for each in tested:
            found, truth = self._reader.classified(each)
            results[each.name] = neighbours(known, labels, found, truth, each.class_names, seed=self._options.seed)
        return results, {}

    def _localization(self, opened: list[PhraseSet]) -> Judged:
        assert self._writer is not None  # the recipe makes one wherever phrases are asked for
        results: dict[str, dict[str, Any]] = {}
        located: list[Located] = []
        for each in opened:
            print(f"{each.name}: {len(each.phrases):,} phrases about {len(each.pictures):,} pictures", flush=True)
            with EmbeddingProgress("phrases", records=len(each.phrases), start=0) as progress:
                results[each.name], shown = locate(
                    self._writer,
                    each.picture,
                    each.phrases,
                    at_once=AT_ONCE,
                    told=progress.update,
                    seed=self._options.seed,
                )
            located += shown[: SHOWN - len(located)]
        return results, {"located": located}
