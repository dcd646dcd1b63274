"""Answers to the page: probabilities of labels, where the model looks, what is nearest; plain values for JSON."""

import base64
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from diptych.core.data.captions import clean_caption
from diptych.core.evaluation.heat_map import occlusion_map, overlay, png, windows_of
from diptych.core.evaluation.nearest import NOT_FOUND, nearest
from diptych.core.report.language_names import language_name
from diptych.engine.judging.search_results import pair_probability
from diptych.engine.judging.zero_shot_results import LabelScore, best_labels
from diptych.engine.serving.batching import Batcher
from diptych.engine.serving.emoji_names import in_words, spells_emoji
from diptych.engine.serving.galleries import Examples, Gallery
from diptych.engine.serving.kept_pictures import PictureReader, Remembered
from diptych.engine.serving.protocol import (
    About,
    AttentionMap,
    HeatMaps,
    KeptPicture,
    LabelMap,
    ModelFacts,
    Nearest,
    NearRow,
    Probabilities,
)
from diptych.engine.serving.refusals import Refused, in_sentences
from diptych.engine.serving.shared_encoder import LARGEST_BATCH, SharedEncoder

MOST_PICTURES = 32
MOST_LABELS = 50
MOST_CHARACTERS = 200
MOST_FOUND = 60
OVERLAY_SIDE = 480

CELLS = (16, 14, 12, 10, 8, 6)
WINDOW_SHARE = 1 / 3  # of the picture's side, hidden at a time
HEAT_MAP_SECONDS = 2.0


@dataclass
class Kept:
    """A picture that was sent: its embedding [dim], and itself, small enough to be embedded a few hundred times."""

    vector: np.ndarray
    small: np.ndarray
    height: int
    width: int
    drops: np.ndarray | None = None  # [cells, cells, dim], of `occlusion_map` with embeddings as scores


class Answers:
    """Answers from many threads at once. Raises `Refused` for what cannot be answered.

    encoder: a `diptych.engine.embedding.encoder.Encoder`.   model: its name for people.
    template: what labels are put into, such as "a photo of a {}".
    cells: rows and columns of the heat maps; None for as many as take about `HEAT_MAP_SECONDS` here.
    attention: of a picture, where the model has it; see `attention_of`.
    source: where the model is from, for people.
    batcher, largest_batch: of `SharedEncoder`.
    """

    offers = frozenset({"pair"})

    def __init__(
        self,
        encoder: Any,
        gallery: Gallery,
        examples: Examples,
        *,
        model: str,
        queries: Sequence[str],
        template: str = "{}",
        cells: int | None = None,
        attention: Callable[[np.ndarray], np.ndarray] | None = None,
        source: str = "",
        batcher: Batcher | None = None,
        largest_batch: int = LARGEST_BATCH,
    ):
        self.gallery, self.examples, self.template = gallery, examples, template
        self._encoder = SharedEncoder(encoder, batcher=batcher, largest_batch=largest_batch)
        self.batcher = self._encoder.batcher
        self._source = source
        tokenizer = getattr(encoder.processor, "tokenizer", None)
        self._names_emoji = tokenizer is not None and spells_emoji(tokenizer)
        self._model, self._queries, self._attention = model, queries, attention
        size = getattr(encoder.processor, "input_size", None) or (256, 256)
        self._longest_side = 2 * max(size)
        self.cells = cells or self._affordable_cells()
        self._pictures: Remembered[Kept] = Remembered()
        self._reader, self._mapping = PictureReader(), threading.Lock()

    def about(self) -> About:
        """What the page shows before anything is asked."""
        examples = self.examples.described()
        codes = sorted(set.intersection(*(set(example["names"]) for example in examples)), key=language_name)
        return {
            "model": self.facts(),
            "asks": False,
            "sigmoid": self._encoder.encoder.logit_bias is not None,
            "template": self.template,
            "attention": self._attention is not None,
            "gallery": {"name": self.gallery.name, "rows": len(self.gallery)},
            "examples": examples,
            "languages": [{"code": code, "name": language_name(code)} for code in codes],
            "queries": list(self._queries),
            "limits": {"labels": MOST_LABELS, "characters": MOST_CHARACTERS},
        }

    def facts(self) -> ModelFacts:
        """Which model answers."""
        encoder = self._encoder.encoder
        model = getattr(encoder, "model", None)
        return {
            "name": self._model,
            "kind": "pair" if model is None else type(model).__name__,
            "source": self._source,
            "parameters": 0 if model is None else model.count_params(),
            "dim": encoder.dim,
            "logit_scale": encoder.logit_scale,
            "logit_bias": encoder.logit_bias,
            "images": len(self.gallery),
        }

    def keep(self, data: bytes) -> KeptPicture:
        """Reads an encoded picture and remembers it, the oldest of many being forgotten."""
        name = self._pictures.name_of(data)
        kept = self._pictures.find(name)
        if kept is None:
            (kept,) = self._reader.look([data], self._to_keep)
        self._pictures.put(name, kept, most=MOST_PICTURES)
        return {"picture": name, "height": kept.height, "width": kept.width}

    def image_vectors(self, files: Sequence[bytes]) -> np.ndarray:
        """Encoded pictures -> float32 [n, dim]."""
        return np.stack(self._reader.look(files, self._encoder.embed_images))

    def text_vectors(self, texts: Sequence[str]) -> np.ndarray:
        """Texts as they were typed -> float32 [n, dim]."""
        return self._encoder.embed_texts([self._read_as(text) for text in texts])

    def scores(self, vector: np.ndarray, labels: Sequence[str], template: str | None = None) -> list[LabelScore]:
        """Of each label for a picture's vector, best first."""
        cosines = self._label_vectors(labels, template) @ vector
        return best_labels(cosines, labels, self._encoder.encoder, top_k=len(labels))

    def probabilities(self, picture: str, labels: Sequence[str]) -> Probabilities:
        """Of each label, best first."""
        return {"labels": self.scores(self._pictures.get(picture).vector, labels)}

    def heat_maps(self, picture: str, labels: Sequence[str]) -> HeatMaps:
        """What speaks for each label, and against it, by how much its logit falls when a part of the picture is
        hidden.
        """
        kept = self._pictures.get(picture)
        vectors = self._label_vectors(labels)
        with self._mapping:  # the second of two that ask for the same finds it done
            if kept.drops is None:
                kept.drops = occlusion_map(
                    kept.small,
                    lambda pictures: self._encoder.embed_images(list(pictures)),
                    cells=self.cells,
                    window=_window(self.cells),
                    batch_size=LARGEST_BATCH,
                )
        heats = self._encoder.encoder.logit_scale * np.einsum("rcd,ld->lrc", kept.drops, vectors)
        maps: list[LabelMap] = [
            {"label": label, "overlay": _layer(heat, kept), "values": _rounded(heat), "limit": _largest(heat)}
            for label, heat in zip(labels, heats, strict=True)
        ]
        return {"maps": maps, "attention": self._attention_map(kept)}

    def search(self, *, text: str | None = None, picture: str | None = None, count: int = 24) -> Nearest:
        """The gallery's images nearest to a text, or to a picture, best first."""
        if (text is None) == (picture is None):
            raise Refused(400, "Ask for a text or for a picture.")
        if text is not None:
            read_as = self._read_as(text)
            return self.near(self._encoder.embed_texts([read_as])[0], count, read_as=read_as)
        return self.near(self._pictures.get(picture or "").vector, count)

    def near(self, query: np.ndarray, count: int, *, read_as: str | None = None) -> Nearest:
        """The gallery's images nearest to a vector, best first; `read_as` is the text that it is of."""
        began = time.perf_counter()
        scores, rows = nearest(query[None], self.gallery.vectors, min(count, MOST_FOUND), allowed=self.gallery.usable)
        seconds = time.perf_counter() - began
        found = [
            (score, row) for score, row in zip(scores[0].tolist(), rows[0].tolist(), strict=True) if row != NOT_FOUND
        ]
        items = self.gallery.items([row for _, row in found]) if found else []
        results: list[NearRow] = [
            {
                "row": row,
                "caption": item.caption,
                "cosine": score,
                "probability": None if read_as is None else pair_probability(self._encoder.encoder, score),
            }
            for (score, row), item in zip(found, items, strict=True)
        ]
        return {"results": results, "seconds": seconds, "read_as": read_as}

    def close(self) -> None:
        """Waits until the model is at rest; from then on nothing is answered."""
        self._encoder.close()

    def _to_keep(self, pictures: list[np.ndarray]) -> list[Kept]:
        vectors = self._encoder.embed_images(pictures)
        smaller = [_shrunk(pixels, self._longest_side, self.cells) for pixels in pictures]
        return [
            Kept(vector, small, pixels.shape[0], pixels.shape[1])
            for vector, small, pixels in zip(vectors, smaller, pictures, strict=True)
        ]

    def _read_as(self, text: str) -> str:
        """The text as the model is given it."""
        cleaned = cleaned_text(text)
        return in_words(cleaned) if self._names_emoji else cleaned

    def _label_vectors(self, labels: Sequence[str], template: str | None = None) -> np.ndarray:
        if not 1 <= len(labels) <= MOST_LABELS:
            raise Refused(400, f"Give 1 to {MOST_LABELS} labels, not {len(labels)}.")
        if len(set(labels)) < len(labels):
            raise Refused(400, "Labels must differ.")
        template = self.template if template is None else template
        return self._encoder.embed_texts([template.replace("{}", self._read_as(label)) for label in labels])

    def _attention_map(self, kept: Kept) -> AttentionMap | None:
        if self._attention is None:
            return None
        attention = self._attention
        shares = self._encoder.run(lambda: attention(kept.small))
        even = 1 / shares.size
        layer = _layer(np.maximum(shares - even, 0), kept)
        return {"overlay": layer, "values": _rounded(shares), "limit": float(shares.max()), "even": even}

    def _affordable_cells(self) -> int:
        """The most cells whose heat map takes about `HEAT_MAP_SECONDS`, by the time of a batch: a full one, unless one
        takes long.
        """
        side, seconds = self._longest_side, 0.0
        for count in (1, LARGEST_BATCH):
            pictures = list(np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8))
            self._encoder.embed_images(pictures)  # compiles
            elapsed = min(_seconds(self._encoder.embed_images, pictures) for _ in range(3))  # others may be busy
            seconds = elapsed / count
            if elapsed > HEAT_MAP_SECONDS / 20:
                break
        fitting = (cells for cells in CELLS if windows_of(cells, _window(cells)) * seconds <= HEAT_MAP_SECONDS)
        return next(fitting, CELLS[-1])


def _seconds(call: Callable[..., object], *arguments: object) -> float:
    began = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - began


def _window(cells: int) -> int:
    return max(1, round(cells * WINDOW_SHARE))


def _layer(heat: np.ndarray, kept: Kept) -> str:
    """The map as a picture to lay on the page's, as a data address; its strongest value has full strength."""
    share = OVERLAY_SIDE / max(kept.height, kept.width)
    height, width = (max(1, round(side * share)) for side in (kept.height, kept.width))
    layer = overlay(heat, height, width, limit=max(_largest(heat), 1e-9))
    return f"data:image/png;base64,{base64.b64encode(png(layer)).decode()}"


def _largest(heat: np.ndarray) -> float:
    return float(np.abs(heat).max())


def _rounded(values: np.ndarray) -> list[list[float]]:
    return values.round(5).tolist()


def _shrunk(pixels: np.ndarray, longest_side: int, shortest_side: int) -> np.ndarray:
    """A picture of at most `longest_side` pixels a side, and at least `shortest_side`."""
    height, width = pixels.shape[:2]
    share = min(1.0, longest_side / max(height, width))
    size = (max(shortest_side, round(width * share)), max(shortest_side, round(height * share)))
    return pixels if size == (width, height) else np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))


def cleaned_text(text: str) -> str:
    """What was typed, on one line; `Refused` for what is no text or too long."""
    if len(text) > MOST_CHARACTERS:
        raise Refused(413, f"A text may have {MOST_CHARACTERS} characters, this one has {len(text)}.")
    with in_sentences():
        return clean_caption(text)
