"""The small foreseeable encoder for the page: it takes pixels as well as files, and notices two calls at a time."""

import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from diptych.core.data.image import decode, resize
from tests.recipes.fake_encoder import SIDE, FakeEncoder, FakeProcessor


class PixelProcessor(FakeProcessor):
    """Takes uint8 arrays, too."""

    input_size = (SIDE, SIDE)

    def images(self, items: Sequence[Any]) -> dict[str, np.ndarray]:
        pictures = [item if isinstance(item, np.ndarray) else decode(item) for item in items]
        return {"images": np.stack([resize(picture, SIDE) / np.float32(127.5) - 1 for picture in pictures])}


class DemoEncoder(FakeEncoder):
    """Remembers the texts that it was given and the sizes of all batches; `seconds` is what it takes for an item."""

    def __init__(self, weights: str = "first", *, seconds: float = 0.0, **options):
        super().__init__(weights, **options)
        self.processor = PixelProcessor()
        self.seconds = seconds
        self.heard: list[str] = []
        self.batches: list[int] = []
        self.overlapped = False
        self._busy = threading.Lock()

    def embed_images(self, items: Sequence[Any], *, batch_size: int = 64) -> np.ndarray:
        return self._alone(lambda: super(DemoEncoder, self).embed_images(items, batch_size=batch_size), items)

    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> np.ndarray:
        self.heard += texts
        return self._alone(lambda: super(DemoEncoder, self).embed_texts(texts, batch_size=batch_size), texts)

    def _alone(self, call: Any, items: Sequence[Any]) -> np.ndarray:
        self.batches.append(len(items))
        if not self._busy.acquire(blocking=False):
            self.overlapped = True
            return call()
        try:
            time.sleep(self.seconds * len(items))
            return call()
        finally:
            self._busy.release()
