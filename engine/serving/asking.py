"""Answers of a PaliGemma to prompts about pictures: words, boxes, masks, and the picture with them drawn on it."""

import base64
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from diptych.core.data.detections import parse_detections
from diptych.core.evaluation.heat_map import png
from diptych.core.report.detections_picture import with_detections
from diptych.engine.serving.answers import MOST_CHARACTERS, MOST_LABELS, cleaned_text
from diptych.engine.serving.batching import Batcher
from diptych.engine.serving.galleries import Examples
from diptych.engine.serving.kept_pictures import PictureReader, Remembered
from diptych.engine.serving.protocol import About, Answer, KeptPicture, ModelFacts

MOST_PICTURES = 16
MOST_SHOWN_PIXELS = 1_000_000
LARGEST_BATCH = 8
STEPS = 64


@dataclass(frozen=True)
class Seen:
    """A picture that was sent, uint8 [height, width, 3], and the size that it had."""

    pixels: np.ndarray
    height: int
    width: int


class PromptAnswers:
    """Answers from many threads at once; raises `Refused` for what cannot be answered.

    answerer: a `diptych.engine.answering.Answerer`.   model, source: its name, and where it is from, for people.
    prompts: to begin with.
    """

    offers = frozenset({"ask"})

    def __init__(
        self,
        answerer: Any,
        examples: Examples,
        *,
        model: str,
        prompts: Sequence[str],
        source: str = "",
        batcher: Batcher | None = None,
        largest_batch: int = LARGEST_BATCH,
    ):
        self.answerer, self.examples, self.gallery = answerer, examples, None
        self.batcher = batcher or Batcher()
        self._model, self._prompts, self._source = model, prompts, source
        self._largest_batch = min(largest_batch, LARGEST_BATCH)
        self._pictures: Remembered[Seen] = Remembered()
        self._reader = PictureReader()

    def about(self) -> About:
        """What the page shows before anything is asked."""
        return {
            "model": self.facts(),
            "asks": True,
            "sigmoid": False,
            "template": "{}",
            "attention": False,
            "gallery": {"name": "", "rows": 0},
            "examples": self.examples.described(),
            "languages": [],
            "queries": list(self._prompts),
            "limits": {"labels": MOST_LABELS, "characters": MOST_CHARACTERS},
        }

    def facts(self) -> ModelFacts:
        """Which model answers."""
        return {
            "name": self._model,
            "kind": type(self.answerer.model).__name__,
            "source": self._source,
            "parameters": self.answerer.model.count_params(),
            "dim": None,
            "logit_scale": None,
            "logit_bias": None,
            "images": 0,
        }

    def keep(self, data: bytes) -> KeptPicture:
        """Reads an encoded picture and remembers it, the oldest of many being forgotten."""
        name = self._pictures.name_of(data)
        seen = self._pictures.find(name) or self._read(data)
        self._pictures.put(name, seen, most=MOST_PICTURES)
        return {"picture": name, "height": seen.height, "width": seen.width}

    def ask(self, picture: str, prompt: str) -> Answer:
        """The answer to a prompt about a picture that is remembered."""
        return self._asked(self._pictures.get(picture), prompt)

    def ask_about(self, data: bytes, prompt: str) -> Answer:
        """The answer to a prompt about an encoded picture."""
        return self._asked(self._read(data), prompt)

    def close(self) -> None:
        """Waits until the model is at rest; from then on nothing is answered."""
        self.batcher.close()

    def _read(self, data: bytes) -> Seen:
        (seen,) = self._reader.look([data], lambda pictures: [_seen(pixels) for pixels in pictures])
        return seen

    def _asked(self, seen: Seen, prompt: str) -> Answer:
        began = time.perf_counter()
        asked = (seen.pixels, cleaned_text(prompt))
        (text,) = self.batcher.call(self._answers, [asked], largest=self._largest_batch)
        detections = parse_detections(text)
        height, width = seen.pixels.shape[:2]
        drawn, coded = None, any(one.codes is not None for one in detections.found)
        if detections.found:
            masks: Sequence = ()
            if coded and self.answerer.mask_decoder is not None:
                (masks,) = self.batcher.call(
                    lambda items: [self.answerer.masks(detections.found, height, width)], [None], largest=1
                )
            picture = png(with_detections(seen.pixels, detections.found, masks))
            drawn = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
        return {
            "answer": text,
            "found": [
                {
                    "label": one.label,
                    "box": list(one.pixel_box(seen.height, seen.width)),
                    "mask": one.codes is not None,
                }
                for one in detections.found
            ],
            "unreadable": list(detections.unreadable) if detections.found or "<loc" in text else [],
            "drawn": drawn,
            "seconds": time.perf_counter() - began,
        }

    def _answers(self, items: list) -> list[str]:
        """Filled up to a power of two, so that few sizes are compiled."""
        size = 1 << (len(items) - 1).bit_length()
        filled = [*items, *([items[-1]] * (size - len(items)))]
        pictures, prompts = zip(*filled, strict=True)
        return self.answerer.answers(list(pictures), list(prompts), steps=STEPS, batch_size=size)[: len(items)]


def _seen(pixels: np.ndarray) -> Seen:
    """The picture, made smaller where it has more than `MOST_SHOWN_PIXELS`."""
    height, width = pixels.shape[:2]
    share = np.sqrt(MOST_SHOWN_PIXELS / (height * width))
    if share < 1:
        size = (max(1, int(width * share)), max(1, int(height * share)))
        pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))
    return Seen(pixels, height, width)
