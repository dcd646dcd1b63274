"""Judges a trained model's features, frozen: classes of pixels, depth, neighbours, and the boxes that its decoder finds.

Command:   python -m recipes.dense
Own data:  python -m recipes.dense --model runs/siglip2/trunk/model --segmentation voc:VOCdevkit/VOC2012 --depth nyu
Boxes:     python -m recipes.dense --model runs/siglip2/trunk/model --refcoco refcoco.json --images train2014

Without data it looks at scenes of emoji: probes are fitted to scenes by the training designers and judged on scenes by the designer that
no model of ours was trained on; a model with a decoder (a stage of `recipes.siglip2`) is asked where each thing is. Probes are linear;
nothing else is trained. Prints the scores, and writes --output (JSON), and beside it a page to look at (.html).

What differs from SigLIP 2's tables 2 and 5: the probes are solved as a whole rather than trained, pictures are squashed to the model's
square, pixels are scored at --map-size, and boxes are found by the model's own decoder rather than by one trained on RefCOCO. Scores are
to be compared with one another.
"""

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from diptych.recipes.command_line import parse

FORMAT = "diptych-dense"
VERSION = 1
LARGEST_TABLE = 100  # classes; larger tables of confusion are not stored


@dataclass(frozen=True, kw_only=True)
class Dense:
    """Which model, on what, and how."""

    model: Annotated[str, tyro.conf.arg(aliases=["--pretrained"])] = "emoji_36_languages"
    """A trained model: a folder (of a checkpoint, of a run, of a stage of recipes.siglip2), hf://owner/name, or
    emoji_36_languages."""
    image_size: int | None = None
    """Pixels at which the model looks; by default what it was made for. Positions are resized; NaFlex models look at squares."""
    segmentation: str | None = None
    """Classes of pixels: voc:FOLDER (such as VOCdevkit/VOC2012) or ade:FOLDER (such as ADEChallengeData2016)."""
    depth: Path | None = None
    """A folder with images/train, depths/train and the same for test or val; depths are PNGs of 16 bits."""
    depth_scale: float = 1000.0
    """Units of the depth files a metre."""
    neighbours: str | None = None
    """Classes of pictures, by nearest neighbours: a folder with train and test, each with a folder a class; clip-benchmark's
    layout; or emoji."""
    refcoco: tuple[str, ...] = ()
    """Files of phrases and boxes, one or several; INSTANCES:REFERENCES for two as they were published, both JSON."""
    images: Path | None = None
    """The folder of the pictures that --refcoco is about."""
    pooled: bool = False
    """Whether linear probes get the picture's pooled vector behind each patch, as in SigLIP 2's table 2."""
    train_pictures: int = 2_000
    """Of a larger training set, so many random pictures are read to fit a probe."""
    map_size: int = 256
    """Pixels of a side at which classes and depths are scored."""
    output: Path = Path("runs/dense/results.json")
    """Results; the page is written beside it, as .html."""
    seed: int = 0
    """Of the choice of pictures and patches, and of the bootstrap."""

    def __post_init__(self):
        for flag, given in (
            ("--image-size", self.image_size),
            ("--train-pictures", self.train_pictures),
            ("--map-size", self.map_size),
        ):
            if given is not None and given < 1:
                raise ValueError(f"{flag} must be at least 1, got {given}.")
        if not self.depth_scale > 0:
            raise ValueError(f"--depth-scale must be above 0, the units of the files a metre, got {self.depth_scale}.")
        if self.seed < 0:
            raise ValueError(f"--seed must be at least 0, got {self.seed}.")

    @property
    def own_data(self) -> bool:
        """Whether anything but the embedded scenes is asked for."""
        return bool(self.segmentation or self.depth or self.neighbours or self.refcoco)


def main(arguments: list[str] | None = None) -> int:
    """Judges; returns the exit status."""
    options = parse(Dense(), arguments, program="python -m recipes.dense", description=__doc__)
    from diptych.recipes.encoder import Encoder
    from diptych.recipes.failures import exit_status

    return exit_status(lambda: dense(options, Encoder.open))


def dense(options: Dense, open_encoder: Callable[[str], Any]) -> int:
    """Everything after the command line. `open_encoder` makes an encoder of the model's name: `Encoder.open`."""
    from diptych.core.training.run_folder import write_json
    from diptych.recipes.dense_probes import dense_lines, write_dense_page
    from diptych.recipes.dense_reader import FeatureReader
    from diptych.recipes.dense_tasks import Judge, square_towers
    from diptych.recipes.picture_features import PictureFeatures

    sets = _opened(options)
    towers = square_towers(open_encoder(options.model).model, options.image_size)
    features = PictureFeatures(towers)
    writer = _writer(options, features)
    folder = options.output.parent
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".features-", dir=folder, ignore_cleanup_errors=True) as files:
        reader = FeatureReader(features, Path(files), seed=options.seed)
        results, pictures = Judge(options, reader, writer).judged(sets)
    evaluation = _header(options, towers) | {"results": _stored(results)}
    write_json(options.output, evaluation)
    seen = evaluation["model"]
    page = write_dense_page(
        options.output.with_suffix(".html"),
        results,
        pictures,
        title=f"{_short_name(options.model)} on {', '.join(dict.fromkeys(name for each in results.values() for name in each))}",
        summary=f"What the features of {seen['patches']:,} patches of {seen['image_size']} px pictures tell, frozen"
        f"{', and where the decoder finds phrases' if 'localization' in results else ''}.",
    )
    print("\n" + "\n".join(dense_lines(results)))
    print(f"\nResults: {options.output}\nPage: {page.resolve().as_uri()}", flush=True)
    return 0


def _short_name(model: str) -> str:
    """A run's model lies in a folder "model", which is named after its run."""
    path = Path(model)
    return path.parent.name if path.name == "model" and path.parent.name else path.name


def _opened(options: Dense) -> dict[str, Any]:
    """Every set that is asked for, before a model is loaded: what is missing is said at once."""
    from diptych.recipes import dense_sets

    sets: dict[str, Any] = {}
    if options.segmentation:
        sets["segmentation"] = dense_sets.open_segmentation(options.segmentation)
    if options.depth:
        sets["depth"] = dense_sets.open_depth(options.depth, scale=options.depth_scale)
    if options.neighbours:
        sets["neighbours"] = dense_sets.open_neighbours(options.neighbours)
    if options.refcoco:
        sets["localization"] = dense_sets.open_phrases(options.refcoco, options.images)
    return sets


def _writer(options: Dense, features):
    """The model's decoder, None where it has none and is not needed; raises FileNotFoundError where it is."""
    from diptych.models.captioner import Captioner
    from diptych.recipes.caption import load_targets
    from diptych.recipes.picture_features import Writer

    run = Path(options.model) / "model"
    folder = run if (run / "captioner.json").is_file() else Path(options.model)
    wanted = options.refcoco or (not options.own_data and (folder / "captioner.json").is_file())
    return Writer(features, Captioner.from_folder(folder), load_targets(folder)) if wanted else None


def _stored(results: dict) -> dict:
    """The results without large tables of confusion."""
    return {
        kind: {
            name: {key: value for key, value in numbers.items() if key != "confusion" or len(value) <= LARGEST_TABLE}
            for name, numbers in sets.items()
        }
        for kind, sets in results.items()
    }


def _header(options: Dense, towers) -> dict[str, Any]:
    """What was judged, and by what: everything in the results but the results."""
    from diptych import backends
    from diptych.core.training.card import plain, versions

    vision = towers.config.vision
    return {
        "format": FORMAT,
        "version": VERSION,
        "model": {
            "name": options.model,
            "parameters": int(towers.count_params()),
            "image_size": vision.image_size,
            "patches": vision.num_patches,
        },
        "options": plain(options),
        "backend": backends.name(),
        "device": backends.device_name(),
        "versions": versions(backends.name()),
    }


if __name__ == "__main__":
    sys.exit(main())
