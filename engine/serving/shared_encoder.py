"""One encoder for many threads: what they ask at a time is one batch, in few sizes, and no text is embedded twice."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from diptych.engine.serving.batching import Batcher

MOST_REMEMBERED = 4096  # texts
LARGEST_BATCH = 64

Result = TypeVar("Result")


class SharedEncoder:
    """Embeds for whoever asks; `encoder` is a `diptych.engine.embedding.encoder.Encoder`.

    Batches are filled up to a power of two, because some backends compile for each size: pictures come one by one or by
    the hundred, texts in any number.

    batcher: that joins what threads ask for at the same time.
    largest_batch: pictures or texts of a batch, at most.
    """

    def __init__(self, encoder: Any, *, batcher: Batcher | None = None, largest_batch: int = LARGEST_BATCH):
        self.encoder = encoder
        self.batcher = batcher or Batcher()
        self.largest_batch = largest_batch
        self._lock = threading.Lock()
        self._texts: OrderedDict[str, np.ndarray] = OrderedDict()

    def embed_images(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """uint8 [height, width, 3] each -> float32 [n, dim]. Others get their turn between batches."""
        return np.stack(self._embed(self._image_vectors, pictures))

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Texts, no more than `MOST_REMEMBERED` -> float32 [n, dim]."""
        with self._lock:
            found = {text: self._texts[text] for text in texts if text in self._texts}
        new = list(dict.fromkeys(text for text in texts if text not in found))
        found |= zip(new, self._embed(self._text_vectors, new), strict=True)
        with self._lock:
            for text in dict.fromkeys(texts):
                self._texts[text] = found[text]
                self._texts.move_to_end(text)
            while len(self._texts) > MOST_REMEMBERED:
                self._texts.popitem(last=False)
        return np.stack([found[text] for text in texts])

    def run(self, call: Callable[[], Result]) -> Result:
        """What a call that uses the model returns, when its turn has come; refused once closed."""
        return self.batcher.call(lambda items: [call()], [None], largest=1)[0]

    def close(self) -> None:
        """Waits for the batch that is being embedded and refuses all others, so that the process can end."""
        self.batcher.close()

    def _embed(self, embed: Callable[[list], np.ndarray], items: Sequence[Any]) -> list[np.ndarray]:
        size, found = self.largest_batch, list[np.ndarray]()
        for start in range(0, len(items), size):
            found += self.batcher.call(embed, items[start : start + size], largest=size)
        return found

    def _image_vectors(self, pictures: list) -> np.ndarray:
        return self._filled(self.encoder.embed_images, pictures)

    def _text_vectors(self, texts: list) -> np.ndarray:
        return self._filled(self.encoder.embed_texts, texts)

    def _filled(self, embed: Callable[..., np.ndarray], items: list) -> np.ndarray:
        """A batch, filled up to a power of two by repeating its last item."""
        size = 1 << (len(items) - 1).bit_length()
        filled = [*items, *([items[-1]] * (size - len(items)))]
        return np.asarray(embed(filled, batch_size=size))[: len(items)]
