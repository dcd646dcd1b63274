"""Phrases and the boxes they mean: RefCOCO, RefCOCO+ and RefCOCOg, from JSON.

Two layouts are read. One file of references, a list or {"refs": a list} of

    {"image": "COCO_train2014_000000581857.jpg",    a path relative to the folder of images
     "size": [640, 427],                            optional: width and height; else the image file is asked
     "box": [103.9, 299.9, 134.2, 177.4],           x, y, width, height in pixels ("bbox" will do)
     "split": "train",                              train, val, test, testA or testB
     "sentences": ["the man in red", ...]}

and the data sets' own: instances.json, in the layout of COCO, with the references of `refs(unc).p` and the like, or
the same as JSON. Of a pickle nothing but plain values is read (`core.files.plain_pickle`).

Reference: Kazemzadeh et al. 2014 (ReferItGame); Yu et al. 2016 (RefCOCO, RefCOCO+); Mao et al. 2016 (RefCOCOg).
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from diptych.core.data.image import FORMATS
from diptych.core.data.outlines import Outline
from diptych.core.data.records import BadExample
from diptych.core.data.sources.joins import Join
from diptych.core.files.beginnings import mistaken
from diptych.core.files.plain_pickle import SUFFIXES as PICKLES
from diptych.core.files.plain_pickle import plain_pickle
from diptych.core.files.regular import open_regular

HELD_OUT_SPLITS = ("val", "test", "testA", "testB")
SPLITS = ("train", *HELD_OUT_SPLITS)
_COCO_NAME = re.compile(r"(?:COCO_(?:train|val|test)\d{4}_)?(\d{12})")


@dataclass(frozen=True)
class Referral:
    """One phrase about one thing in an image."""

    image: Path
    phrase: str
    box: tuple[float, float, float, float]  # (ymin, xmin, ymax, xmax), 0 to 1 of the image
    split: str  # of SPLITS
    outline: Outline | None = field(default=None, compare=False, repr=False)  # where the data have one

    @property
    def image_key(self) -> str:
        """What tells images apart across sets: the number of a COCO image, whichever year's naming it has; else the
        file's name.
        """
        number = _COCO_NAME.fullmatch(self.image.stem)
        return str(int(number[1])) if number else self.image.stem


def read_references(path: str | Path, images: str | Path) -> list[Referral]:
    """The phrases of a file of references (the first layout above), in order.

    Args:
        path: the JSON file.
        images: folder of the images; only those without a "size" are opened.

    Raises:
        ValueError: not JSON of this layout, or a box that does not lie in its image; says which reference.
        FileNotFoundError: no such file.
    """
    path, images = Path(path), Path(images)
    content = _json(path)
    references = content.get("refs") if isinstance(content, Mapping) else content
    found: list[Referral] = []
    for number, reference in _objects(path, "references", references):
        where = f"reference {number} of {path}"
        image = _inside(images, _text(reference, "image", where), where)
        size = reference.get("size")
        width, height = _numbers(size, 2, "size", where) if size is not None else _size_of(image, where)
        box = reference.get("box", reference.get("bbox"))
        found += _referrals(image, reference, _relative(_numbers(box, 4, "box", where), width, height, where), where)
    return found


def read_original(instances: str | Path, references: str | Path, images: str | Path) -> list[Referral]:
    """The phrases of a data set as it was published, its references converted to JSON (the second layout above), in
    order.

    Args:
        instances: instances.json, {"images": [{"id", "file_name", "width", "height"}], "annotations": [{"id",
            "bbox"}]}; "segmentation" becomes the outline.
        references: refs(unc).p, refs(umd).p or refs(google).p, or their JSON, [{"image_id", "ann_id", "split",
            "sentences": [{"sent"}]}].
        images: folder of COCO's images of 2014.

    Raises:
        ValueError: a pickle of more than plain values, another layout, or references to images or annotations that are
            not there.
        FileNotFoundError: no such file.
    """
    instances, references, images = Path(instances), Path(references), Path(images)
    content = _json(instances)
    if not isinstance(content, Mapping) or not {"images", "annotations"} <= content.keys():
        raise ValueError(f'{instances} must be {{"images": [...], "annotations": [...]}}, as COCO\'s annotations are.')
    image_of: Join[Any] = Join("images", "reference_image", instances)
    box_of: Join[Any] = Join("annotations", "reference_annotation", instances)
    for _, image in _objects(instances, "images", content["images"]):
        image_of.put(image.get("id"), image)
    for _, entry in _objects(instances, "annotations", content["annotations"]):
        box_of.put(entry.get("id"), (entry.get("bbox"), entry.get("segmentation")))
    found: list[Referral] = []
    for number, reference in _objects(references, "references", _json(references)):
        where = f"reference {number} of {references}"
        try:
            image = image_of.find(reference.get("image_id"))
            box, drawn = box_of.find(reference.get("ann_id"))
        except BadExample as error:
            raise ValueError(
                f"{where} is about image {reference.get('image_id')} and annotation {reference.get('ann_id')}, and in "
                f"{instances} {error.detail}. Are they of the same data set?"
            ) from None
        width, height = _numbers([image.get("width"), image.get("height")], 2, "size", where)
        file = _inside(images, _text(image, "file_name", where), where)
        outline = Outline(drawn, int(height), int(width)) if drawn else None
        corners = _relative(_numbers(box, 4, "box", where), width, height, where)
        found += _referrals(file, reference, corners, where, outline)
    return found


def _json(path: Path) -> Any:
    with open_regular(path) as file:
        data = file.read()
    # Protocol 2 and later begin with 0x80; the older ones are text, and go by their name.
    if data[:1] == b"\x80" or path.suffix in PICKLES:
        return plain_pickle(data, str(path))
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} {mistaken(data, 'JSON') or f'is not JSON: {error}.'}") from None


def _objects(path: Path, kind: str, values: Any) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if not isinstance(values, list) or not values:
        raise ValueError(f"{path} must hold a list of {kind} that is not empty, got {type(values).__name__}.")
    for number, value in enumerate(values):
        if not isinstance(value, Mapping):
            raise ValueError(f"{kind} of {path} must be JSON objects, number {number} is {type(value).__name__}.")
        yield number, value


def _referrals(
    image: Path,
    reference: Mapping[str, Any],
    box: tuple[float, float, float, float],
    where: str,
    outline: Outline | None = None,
) -> Iterable[Referral]:
    split = _text(reference, "split", where)
    if split not in SPLITS:
        raise ValueError(f"{where} has the split {split!r}, expected one of {', '.join(SPLITS)}.")
    sentences = reference.get("sentences")
    if not isinstance(sentences, list) or not sentences:
        raise ValueError(f'{where} needs "sentences", a list that is not empty, got {sentences!r:.80}.')
    for sentence in sentences:
        # The data sets' own sentences are objects: "sent" is the cleaned one that is evaluated, "raw" what was typed.
        phrase = sentence.get("sent", sentence.get("raw")) if isinstance(sentence, Mapping) else sentence
        if not isinstance(phrase, str) or not phrase.strip():
            raise ValueError(f"{where} has a sentence that is no text: {sentence!r:.80}.")
        yield Referral(image, phrase.strip(), box, split, outline)


def _relative(box: Sequence[float], width: float, height: float, where: str) -> tuple[float, float, float, float]:
    """x, y, width, height in pixels -> (ymin, xmin, ymax, xmax), 0 to 1; what hangs over the edge is cut off."""
    if width <= 0 or height <= 0:
        raise ValueError(f"{where} has an image of {width:g} x {height:g} pixels.")
    x, y, across, down = box
    left, right = (min(max(value / width, 0.0), 1.0) for value in (x, x + across))
    top, bottom = (min(max(value / height, 0.0), 1.0) for value in (y, y + down))
    if not (left < right and top < bottom):
        raise ValueError(
            f"{where} has the box {list(box)} in an image of {width:g} x {height:g} pixels: nothing of it is inside. "
            "Expected x, y, width, height."
        )
    return top, left, bottom, right


def _inside(images: Path, name: str, where: str) -> Path:
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts or "\0" in name:
        raise ValueError(f"{where} names the image {name[:200]!r}, which is not a path below the folder of images.")
    return images / parts


def _size_of(image: Path, where: str) -> tuple[int, int]:
    try:
        with open_regular(image) as file, Image.open(file, formats=FORMATS) as picture:
            return picture.size
    except FileNotFoundError:
        raise FileNotFoundError(
            f'no file {image}, whose size {where} needs: put it there, or write its "size".'
        ) from None
    except OSError as error:
        raise ValueError(f"{image}, whose size {where} needs, cannot be read: {error}.") from None


def _numbers(values: Any, count: int, name: str, where: str) -> list[float]:
    plain = isinstance(values, list | tuple) and len(values) == count
    if not plain or not all(
        isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values
    ):
        raise ValueError(f'{where} needs {count} finite numbers as "{name}", got {values!r:.80}.')
    return [float(value) for value in values]


def _text(fields: Mapping[str, Any], name: str, where: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not value:
        raise ValueError(f'{where} needs a "{name}", got {value!r:.80}.')
    return value
