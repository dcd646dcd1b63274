"""Pictures and captions to evaluate on, read once and kept as arrays."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from diptych.core.data.batch import stack_examples
from diptych.core.data.captions import clean_caption
from diptych.core.data.examples.preprocess import Preprocess
from diptych.core.data.ledger import Skipped, leave_out, reasons_with_names, visit
from diptych.core.data.record_parts import usable_pixels
from diptych.core.data.records import Caption, LeftOut, Record, Source


@dataclass(frozen=True, kw_only=True)
class Classes:
    """A labelling of the images of a set, for zero-shot classification."""

    name: str
    names: Sequence[str]  # [classes], for display
    prompts: Sequence[Sequence[str]]  # [classes][prompts of the class]
    labels: np.ndarray  # int64 [images]


@dataclass(frozen=True, kw_only=True)
class PairSet:
    """One image a record, and all its captions; image i and the captions labelled i belong together.

    A caption fits all images that are labelled as its own is: others may show the same things.
    """

    name: str
    images: np.ndarray  # uint8 [images, size, size, 3]
    captions: Sequence[str]  # [texts]
    languages: Sequence[str]  # [texts]
    caption_labels: np.ndarray  # int64 [texts], index of the image
    tokens: np.ndarray  # int32 [texts, context_length]
    labels: np.ndarray  # int64 [images]
    classes: Classes | None = None
    skipped: Mapping[str, int]  # bad records, by reason
    clipped: int = 0  # captions longer than the context
    patches: np.ndarray | None = None  # uint8 [images, length, patch values], for towers that keep the aspect
    spatial_shapes: np.ndarray | None = None  # int32 [images, 2], (rows, columns) of the patches

    def in_language(self, language: str) -> np.ndarray:
        """Indices of the captions in a language, int64."""
        return np.flatnonzero(np.asarray(self.languages) == language)


def read_pairs(
    source: Source,
    preprocess: Preprocess,
    *,
    name: str,
    most_records: int | None = None,
    classes: Classes | None = None,
    alike: Callable[["PairSet"], np.ndarray] | None = None,
    sequence_length: int | None = None,
) -> PairSet:
    """Decodes the first image that can be used of each record (evenly chosen records where there are more than
    `most_records`).

    `alike` gives pictures that a caption fits equally well one label; by default each has its own. With a
    `sequence_length`, each image is also cut into at most so many patches by the preprocessing's `naflex`.

    Records that cannot be used, and parts of others, are entered in the source's ledger; a set without any good record
    is an error. A source with `classes` must be good throughout, because labels go by position.
    """
    if sequence_length and preprocess.naflex is None:
        raise ValueError(
            f"{name}: sequence_length {sequence_length} needs a Preprocess with naflex, which has the patch size."
        )
    indices: Sequence[int] = range(len(source))
    if most_records and len(source) > most_records:
        indices = np.linspace(0, len(source) - 1, most_records).astype(int).tolist()
    images: list[np.ndarray] = []
    grids: list[dict[str, np.ndarray]] = []
    tokens: list[np.ndarray] = []
    captions: list[str] = []
    languages: list[str] = []
    labels: list[int] = []
    skipped: list[Skipped] = []

    def read(record: Record) -> tuple[list[tuple[Caption, np.ndarray]], np.ndarray, Record, list[LeftOut]]:
        encoded = [(caption, preprocess.tokens(caption.text)) for caption in record.require_captions()]
        bad = list(record.caption_parts.left_out)
        return encoded, usable_pixels(source, record, left_out=bad), record, bad

    for index, (encoded, pixels, record, bad) in visit(source, read, indices, skipped=skipped):
        leave_out(source, index, record, bad)
        for caption, ids in encoded:
            captions.append(caption.text)
            languages.append(caption.language)
            tokens.append(ids)
            labels.append(len(images))
        images.append(preprocess.image(pixels))
        if sequence_length and preprocess.naflex:
            grids.append(preprocess.naflex.cut(pixels, sequence_length, preprocess.resize_method))
    if not images:
        why = reasons_with_names(skipped) or "there are none"
        raise ValueError(f"{name}: none of {len(indices)} records can be evaluated on: {why}.")
    if classes and skipped:
        raise ValueError(
            f"{name}: labels go by position, and {len(skipped)} records are bad: {reasons_with_names(skipped)}."
        )
    pairs = PairSet(
        name=name,
        images=np.stack(images),
        captions=tuple(captions),
        languages=tuple(languages),
        caption_labels=np.array(labels, np.int64),
        tokens=np.stack(tokens),
        labels=np.arange(len(images)),
        classes=classes,
        skipped=Counter(one.reason for one in skipped),
        clipped=sum(preprocess.tokenizer.length(clean_caption(text)) > preprocess.context_length for text in captions),
        **(stack_examples(grids, len(grids)) if grids else {}),
    )
    return pairs if alike is None else replace(pairs, labels=alike(pairs))
