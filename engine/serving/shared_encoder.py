"""One encoder for many threads: a call at a time, in few batch sizes, and no text embedded twice."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from diptych.engine.serving.refusals import Refused

MOST_REMEMBERED = 4096  # texts
LARGEST_BATCH = 64

Result = TypeVar("Result")


class SharedEncoder:
    """Embeds for whoever asks; `encoder` is a `diptych.engine.embedding.encoder.Encoder`.

    Batches are filled up to one of few sizes, because some backends compile for each: pictures come one by one or by
    the hundred, texts in any number.
    """

    def __init__(self, encoder: Any):
        self.encoder = encoder
        self._lock = threading.Lock()
        self._texts: OrderedDict[str, np.ndarray] = OrderedDict()
        self._closed = False

    def embed_images(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """uint8 [height, width, 3] each -> float32 [n, dim]. Others get their turn between batches."""
        starts = range(0, len(pictures), LARGEST_BATCH)
        size = LARGEST_BATCH if len(pictures) > 1 else 1
        embed = self.encoder.embed_images
        return np.concatenate([self._embed(embed, pictures[start : start + LARGEST_BATCH], size) for start in starts])

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Texts, no more than `MOST_REMEMBERED` -> float32 [n, dim]."""
        with self._lock:
            found = {text: self._texts[text] for text in texts if text in self._texts}
        new = list(dict.fromkeys(text for text in texts if text not in found))
        for start in range(0, len(new), LARGEST_BATCH):
            some = new[start : start + LARGEST_BATCH]
            found |= zip(some, self._embed(self.encoder.embed_texts, some, _power_of_two(len(some))), strict=True)
        with self._lock:
            for text in dict.fromkeys(texts):
                self._texts[text] = found[text]
                self._texts.move_to_end(text)
            while len(self._texts) > MOST_REMEMBERED:
                self._texts.popitem(last=False)
        return np.stack([found[text] for text in texts])

    def run(self, call: Callable[[], Result]) -> Result:
        """What a call that uses the model returns, when its turn has come; refused once closed."""
        with self._lock:
            if self._closed:
                raise Refused(503, "The demo is ending.")
            return call()

    def close(self) -> None:
        """Waits for the call that is being answered and refuses all others, so that the process can end."""
        with self._lock:
            self._closed = True

    def _embed(self, embed: Callable[..., np.ndarray], items: Sequence[Any], size: int) -> np.ndarray:
        """A batch, filled up to `size` by repeating its last item."""
        filled = [*items, *([items[-1]] * (size - len(items)))]
        return np.asarray(self.run(lambda: embed(filled, batch_size=LARGEST_BATCH)))[: len(items)]


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()
