"""The tasks of the recipe `dense`, one for each kind of set: read it, fit a probe or ask the decoder, keep pictures."""

from diptych.core.evaluation.depth_probe import DepthProbeResult
from diptych.core.evaluation.localization import LocalizationResult
from diptych.core.evaluation.neighbours import NeighboursResult, neighbours
from diptych.core.evaluation.segmentation_probe import SegmentationProbeResult
from diptych.core.report.box_gallery import Located
from diptych.core.report.dense_page import DensePictures, DenseResults
from diptych.engine.embedding.picture_features import Writer
from diptych.engine.embedding.progress import EmbeddingProgress
from diptych.engine.judging.dense.options import Dense
from diptych.engine.judging.dense.probes import (
    SCENES,
    SHOWN,
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
from diptych.engine.judging.dense.sets import ClassifiedPictures, MapSets, Opened, PhraseSet
from diptych.models import SigLIP
from diptych.models.siglip.adapting import adapt, to_square
from diptych.models.siglip.config import NaFlexVisionConfig

AT_ONCE = 512  # pictures with phrases whose features are held in memory


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

    def judged(self, sets: Opened) -> tuple[DenseResults, DensePictures]:
        """The results of each kind, and pictures of the first that has them."""
        if not sets:
            return self._scenes()
        results: DenseResults = {}
        pictures = DensePictures()
        if "segmentation" in sets:
            results["segmentation"], pictures = self._segmentation(sets["segmentation"])
        if "depth" in sets:
            results["depth"], shown = self._depth(sets["depth"])
            pictures = pictures.beside(shown)
        if "neighbours" in sets:
            results["neighbours"] = self._neighbours(*sets["neighbours"])
        if "localization" in sets:
            results["localization"], shown = self._localization(sets["localization"])
            pictures = pictures.beside(shown)
        return results, pictures

    def _scenes(self) -> tuple[DenseResults, DensePictures]:
        print("Drawing scenes", flush=True)
        fitted, scenes = fitted_scenes(), judged_scenes()
        known = self._reader.pictures(fitted.pixels, name="scenes by the training designers")
        found = self._reader.pictures(scenes.pixels, name="scenes by the held-out designer")
        options = self._options
        results, pictures = probe_scenes(known, fitted, found, scenes, pooled=options.pooled, seed=options.seed)
        if self._writer is not None:
            boxes, located = locate_in_scenes(self._writer, scenes, seed=options.seed)
            results["localization"] = {SCENES: boxes}
            pictures = pictures.beside(DensePictures(located=located))
        return results, pictures

    def _maps(self, opened: MapSets) -> tuple[MapFeatures, MapFeatures]:
        side = self._options.map_size
        most, name = self._options.max_train_images, f"{opened.name}: training"
        known = self._reader.maps(opened.fitted, side=side, most=most, name=name)
        return known, self._reader.maps(opened.tested, side=side, name=opened.name)

    def _segmentation(self, opened: MapSets) -> tuple[dict[str, SegmentationProbeResult], DensePictures]:
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
        shown = patch_pictures(found.features, found.shown)
        pictures = DensePictures(patches=shown, segmentation=answers, class_names=opened.class_names)
        return {opened.name: result}, pictures

    def _depth(self, opened: MapSets) -> tuple[dict[str, DepthProbeResult], DensePictures]:
        known, found = self._maps(opened)
        pooled, seed = self._options.pooled, self._options.seed
        result = probe_depth(known.features, known.maps, found.features, found.maps, pooled=pooled, seed=seed)
        return {opened.name: result}, DensePictures(patches=patch_pictures(found.features, found.shown))

    def _neighbours(self, train: ClassifiedPictures, tested: list[ClassifiedPictures]) -> dict[str, NeighboursResult]:
        known, labels = self._reader.classified(train)
        results = {}
        for each in tested:
            found, truth = self._reader.classified(each)
            results[each.name] = neighbours(known, labels, found, truth, each.class_names, seed=self._options.seed)
        return results

    def _localization(self, opened: list[PhraseSet]) -> tuple[dict[str, LocalizationResult], DensePictures]:
        assert self._writer is not None  # the recipe makes one wherever phrases are asked for
        results: dict[str, LocalizationResult] = {}
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
        return results, DensePictures(located=located)
