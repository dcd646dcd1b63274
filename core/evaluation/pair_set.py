"""Pictures and captions to evaluate on, read once and kept as arrays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diptych.core.data.image import decode
from diptych.core.data.preprocess import Preprocess
from diptych.core.data.records import BadExample, Source
from diptych.core.data.text import clean_caption


@dataclass(frozen=True, kw_only=True)
class Classes:
    """A labelling of the images of a set, for zero-shot classification."""

    name: str
    names: Sequence[str]  # [classes], for display
    prompts: Sequence[Sequence[str]]  # [classes][prompts of the class]
    labels: np.ndarray  # int64 [images]


@dataclass(frozen=True, kw_only=True)
class PairSet:
    """One image a record, and all its captions; image i and the captions labelled i belong together."""

    name: str
    images: np.ndarray  # uint8 [images, size, size, 3]
    captions: Sequence[str]  # [texts]
    languages: Sequence[str]  # [texts]
    caption_labels: np.ndarray  # int64 [texts], index of the image
    tokens: np.ndarray  # int32 [texts, context_length]
    classes: Classes | None = None
    skipped: Mapping[str, int]  # bad records, by reason
    clipped: int = 0  # captions longer than the context

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
) -> PairSet:
    """Decodes the first image of each record (evenly chosen records where there are more than `most_records`).

    Records that cannot be used are counted by reason, not raised; a set without any good record is an error. A source with
    `classes` must be good throughout, because labels go by position.
    """
    indices: Sequence[int] = range(len(source))
    if most_records and len(source) > most_records:
        indices = np.linspace(0, len(source) - 1, most_records).astype(int).tolist()
    images: list[np.ndarray] = []
    tokens: list[np.ndarray] = []
    captions: list[str] = []
    languages: list[str] = []
    labels: list[int] = []
    skipped: dict[str, int] = {}
    for index in indices:
        try:
            record = source.record(index)
            encoded = [(caption, preprocess.tokens(caption.text)) for caption in record.captions]
            if not encoded or not record.images:
                raise BadExample("caption_missing" if not encoded else "image_missing", record.key)
            image = preprocess.image(decode(source.read(record.images[0])))
        except BadExample as error:
            skipped[error.reason] = skipped.get(error.reason, 0) + 1
            continue
        for caption, ids in encoded:
            captions.append(caption.text)
            languages.append(caption.language)
            tokens.append(ids)
            labels.append(len(images))
        images.append(image)
    if not images:
        raise ValueError(f"{name}: none of {len(indices)} records can be evaluated on: {skipped or 'there are none'}.")
    if classes and skipped:
        raise ValueError(f"{name}: labels go by position, and {sum(skipped.values())} records are bad: {skipped}.")
    return PairSet(
        name=name,
        images=np.stack(images),
        captions=tuple(captions),
        languages=tuple(languages),
        caption_labels=np.array(labels, np.int64),
        tokens=np.stack(tokens),
        classes=classes,
        skipped=skipped,
        clipped=sum(preprocess.tokenizer.length(clean_caption(text)) > preprocess.context_length for text in captions),
    )
