"""Judgement of frozen features: classes of pixels, depth, neighbours, and the boxes that a model's decoder finds.

Command:   python -m recipes.dense
Own data:  python -m recipes.dense --model runs/siglip2/trunk/model --segmentation voc:VOCdevkit/VOC2012 --depth nyu
Boxes:     python -m recipes.dense --model runs/siglip2/trunk/model --refcoco refcoco.json --refcoco-images train2014

Without data it looks at scenes of emoji: probes are fitted to scenes by the training designers and judged on scenes by
the designer that no model of ours was trained on; a model with a decoder (a stage of `recipes.siglip2`) is asked where
each thing is. Probes are linear; nothing else is trained. Prints the scores, and writes --output (JSON), and beside it
a page to look at (.html).

What differs from SigLIP 2's tables 2 and 5: the probes are solved as a whole rather than trained, pictures are squashed
to the model's square, pixels are scored at --map-size, and boxes are found by the model's own decoder rather than by
one trained on RefCOCO. Scores are to be compared with one another.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.engine.command_line import parse
from diptych.engine.judging.dense.options import Dense

if TYPE_CHECKING:
    from diptych.engine.judging.dense.sets import Opened

FORMAT = "diptych-dense"
VERSION = 1


def main(arguments: list[str] | None = None) -> int:
    """Judges; returns the exit status."""
    options = parse(Dense(), arguments, program="python -m recipes.dense", description=__doc__)
    from diptych.engine.embedding.encoder import Encoder
    from diptych.engine.failures import exit_status

    return exit_status(lambda: dense(options, Encoder.open), options)


def dense(options: Dense, open_encoder: Callable[[str], Any]) -> int:
    """Everything after the command line. `open_encoder` makes an encoder of the model's name: `Encoder.open`."""
    from diptych.core.files.json_objects import write_json
    from diptych.core.report.dense_page import of_all_kinds
    from diptych.core.report.ledger_text import tell_left_out
    from diptych.engine.embedding.picture_features import PictureFeatures
    from diptych.engine.judging.dense.probes import dense_lines, write_dense_page
    from diptych.engine.judging.dense.reader import FeatureReader
    from diptych.engine.judging.dense.tasks import Judge, square_towers
    from diptych.engine.judging.header import header
    from diptych.engine.judging.page import without_large_table

    sets = _opened(options)
    towers = square_towers(open_encoder(options.model).model, options.image_size)
    features = PictureFeatures(towers)
    writer = _writer(options, features)
    folder = options.output.parent
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".features-", dir=folder, ignore_cleanup_errors=True) as files:
        reader = FeatureReader(features, Path(files), seed=options.seed, max_skipped=options.reading.max_skipped)
        results, pictures = Judge(options, reader, writer).judged(sets)
    by_kind = of_all_kinds(results)
    stored = {
        kind: {name: without_large_table(numbers) for name, numbers in sets.items()} for kind, sets in by_kind.items()
    }
    vision: Any = towers.config.vision  # of square pictures
    seen = {"image_size": vision.image_size, "patches": vision.num_patches}
    model = {"name": options.model, "parameters": int(towers.count_params()), **seen}
    write_json(options.output, {**header(FORMAT, VERSION, options), "model": model, "results": stored})
    sources = dict.fromkeys(name for sets in by_kind.values() for name in sets)
    page = write_dense_page(
        options.output.with_suffix(".html"),
        results,
        pictures,
        title=f"{_short_name(options.model)} on {', '.join(sources)}",
        summary=f"What the features of {seen['patches']:,} patches of {seen['image_size']} px pictures tell, frozen"
        f"{', and where the decoder finds phrases' if 'localization' in results else ''}.",
    )
    print("\n" + "\n".join(dense_lines(results)))
    tell_left_out(reader.ledgers)
    print(f"\nResults: {options.output}\nPage: {page.resolve().as_uri()}", flush=True)
    return 0


def _short_name(model: str) -> str:
    """A run's model lies in a folder "model", which is named after its run."""
    path = Path(model)
    return path.parent.name if path.name == "model" and path.parent.name else path.name


def _opened(options: Dense) -> "Opened":
    """Every set that is asked for, before a model is loaded: what is missing is said at once."""
    from diptych.engine.judging.dense import sets as dense_sets

    sets: Opened = {}
    if options.segmentation:
        sets["segmentation"] = dense_sets.open_segmentation(options.segmentation)
    if options.depth:
        sets["depth"] = dense_sets.open_depth(options.depth, scale=options.depth_scale)
    if options.neighbours:
        sets["neighbours"] = dense_sets.open_neighbours(options.neighbours, options.reading)
    if options.refcoco:
        sets["localization"] = dense_sets.open_phrases(options.refcoco, options.refcoco_images)
    return sets


def _writer(options: Dense, features):
    """The model's decoder, None where it has none and is not needed; raises FileNotFoundError where it is."""
    from diptych.engine.embedding.picture_features import Writer
    from diptych.engine.training.targets_file import read_targets
    from diptych.models.captioner.model import Captioner

    run = Path(options.model) / "model"
    folder = run if (run / "captioner.json").is_file() else Path(options.model)
    wanted = options.refcoco or (not options.own_data and (folder / "captioner.json").is_file())
    return Writer(features, Captioner.from_folder(folder), read_targets(folder)) if wanted else None


if __name__ == "__main__":
    sys.exit(main())
