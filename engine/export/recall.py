"""The cost of fewer bits: recall by exported towers beside the model's own, on the same pictures and captions."""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from diptych.core.data.batch import join_rows
from diptych.core.data.ledger import visit
from diptych.core.data.record_parts import usable_pixels
from diptych.core.data.records import Record, Source
from diptych.core.evaluation.retrieval import recall_at_k
from diptych.engine.embedding.image_stream import chosen_caption
from diptych.engine.export.check import Run

MOST_PICTURES = 1_000
BATCH = 50


class RecallCost(TypedDict):
    """Recall of captions in pictures, both ways of computing it, JSON-ready."""

    data: str
    pairs: int
    model: dict[str, float]  # "recall@1", "recall@5"
    file: dict[str, float]


Inputs = Sequence[dict[str, np.ndarray]]
"""Batches of a tower's inputs by name."""


def prepared_pairs(source: Source, processor: Any, *, name: str) -> tuple[Inputs, Inputs]:
    """Pictures and captions as the towers take them: one caption, English where there is one, of up to `MOST_PICTURES`
    records, evenly chosen.

    Bad records are entered in the source's ledger.

    Raises:
        ValueError: for fewer than two pairs that can be used.
    """
    chosen = np.linspace(0, len(source) - 1, min(len(source), MOST_PICTURES)).astype(int).tolist()

    def read(record: Record) -> tuple[dict[str, np.ndarray], str]:
        record.require_captions()
        caption, _ = chosen_caption(record)
        return processor.images([usable_pixels(source, record)]), caption

    pairs = [pair for _, pair in visit(source, read, chosen)]
    if len(pairs) < 2:
        raise ValueError(f"{name}: {len(pairs)} of {len(chosen)} records are pictures with captions, expected some.")
    batches = [pairs[start : start + BATCH] for start in range(0, len(pairs), BATCH)]
    images = [join_rows([picture for picture, _ in batch]) for batch in batches]
    return images, [processor.texts([caption for _, caption in batch]) for batch in batches]


def recall_cost(
    pairs: tuple[Inputs, Inputs], model: Mapping[str, Run], file: Mapping[str, Run], *, name: str
) -> RecallCost:
    """Recall by a model's towers and by those of its files.

    Args:
        pairs: of `prepared_pairs`.
        model, file: by tower ("image", "text"), what computes embeddings of its inputs.
        name: of the data.
    """
    images, texts = pairs
    count = sum(len(next(iter(batch.values()))) for batch in images)

    def recall(of: Mapping[str, Run]) -> dict[str, float]:
        embedded = [
            np.concatenate([of[tower](batch) for batch in batches])
            for tower, batches in (("image", images), ("text", texts))
        ]
        found, _ = recall_at_k(embedded[1], embedded[0], np.arange(count), ks=(1, 5))
        return {f"recall@{k}": share for k, share in found.items()}

    return {"data": name, "pairs": count, "model": recall(model), "file": recall(file)}
