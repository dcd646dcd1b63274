"""The batch: what the loader promises and training, evaluation and models rely on, declared once."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Matching images and captions: row i of `image` and row i of `text` belong together, and no record comes twice.

    | field   | dtype | shape                      | range                                                              |
    |---------|-------|----------------------------|--------------------------------------------------------------------|
    | `image` | uint8 | [batch, height, width, 3]  | 0..255, RGB; models map it to [-1, 1]                              |
    | `text`  | int32 | [batch, context_length]    | token ids, end-of-text before the padding; with several captions   |
    |         |       |                            | an image [batch, captions, context_length]                         |
    | `index` | int64 | [batch]                    | place of the example in the endless training order                 |

    The rest stays on the host: `keys` and `languages` name each row's record and its caption's language; `skipped` lists the
    (record key, reason) of the bad examples that were met and replaced while this batch was made.
    """

    image: np.ndarray = field(repr=False)
    text: np.ndarray = field(repr=False)
    index: np.ndarray
    keys: tuple[str, ...] = field(repr=False)
    languages: tuple[str, ...] = field(repr=False)
    skipped: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.index)

    def arrays(self) -> dict[str, np.ndarray]:
        """What goes to the device."""
        return {"image": self.image, "text": self.text}

    def validate(self) -> "Batch":
        """Return the batch itself, or raise ValueError naming the field that breaks the contract."""
        size = len(self.index)
        expected = {
            "image": (np.uint8, (size, *self.image.shape[1:3], 3)),
            "text": (np.int32, (size, *self.text.shape[1:])),
            "index": (np.int64, (size,)),
        }
        for name, (dtype, shape) in expected.items():
            array = getattr(self, name)
            if array.dtype != dtype or array.shape != shape:
                raise ValueError(
                    f"Batch.{name} is {array.dtype}{list(array.shape)}, expected {np.dtype(dtype)}{list(shape)} "
                    f"(batch of {size}, declared in diptych.core.data.batch)"
                )
        for name in ("keys", "languages"):
            if len(getattr(self, name)) != size:
                raise ValueError(f"Batch.{name} has {len(getattr(self, name))} entries for {size} examples")
        if self.image.ndim != 4 or self.text.ndim not in (2, 3):
            raise ValueError(
                f"Batch has image rank {self.image.ndim} and text rank {self.text.ndim}, expected 4 and 2 or 3"
            )
        return self
