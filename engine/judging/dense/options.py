"""Options of `recipes.dense`."""

from dataclasses import dataclass
from pathlib import Path

from diptych.core.data.sources.reading import AS_USUAL, Reading
from diptych.engine.flags import check_least


@dataclass(frozen=True, kw_only=True)
class Dense:
    """Which model, on what, and how."""

    model: str = "emoji_36_languages"
    """A trained model: a folder (of a checkpoint, of a run, of a stage of recipes.siglip2), hf://owner/name, or
    emoji_36_languages."""
    image_size: int | None = None
    """Pixels at which the model looks; by default what it was made for. Positions are resized; NaFlex models look at
    squares.
    """
    segmentation: str | None = None
    """Classes of pixels: voc:FOLDER (such as VOCdevkit/VOC2012) or ade:FOLDER (such as ADEChallengeData2016)."""
    depth: Path | None = None
    """A folder with images/train, depths/train and the same for test or val; depths are PNGs of 16 bits."""
    depth_scale: float = 1000.0
    """Units of the depth files a metre."""
    neighbours: str | None = None
    """Classes of pictures, by nearest neighbours: a folder with train and test, each with a folder a class;
    clip-benchmark's layout; or emoji."""
    refcoco: tuple[str, ...] = ()
    """Files of phrases and boxes, one or several; INSTANCES:REFERENCES for two as they were published, both JSON."""
    refcoco_images: Path | None = None
    """The folder of the pictures that --refcoco is about."""
    pooled: bool = False
    """Whether linear probes get the picture's pooled vector behind each patch, as in SigLIP 2's table 2."""
    max_train_images: int = 2_000
    """Of a larger training set, so many random pictures are read to fit a probe."""
    map_size: int = 256
    """Pixels of a side at which classes and depths are scored."""
    output: Path = Path("runs/dense/results.json")
    """Results; the page is written beside it, as .html."""
    seed: int = 0
    """Of the choice of pictures and patches, and of the bootstrap."""
    reading: Reading = AS_USUAL

    def __post_init__(self):
        check_least(self, image_size=1, max_train_images=1, map_size=1, seed=0)
        if not self.depth_scale > 0:
            raise ValueError(f"--depth-scale must be above 0, the units of the files a metre, got {self.depth_scale}.")

    @property
    def own_data(self) -> bool:
        """Whether anything but the embedded scenes is asked for."""
        return bool(self.segmentation or self.depth or self.neighbours or self.refcoco)
