"""A PaliGemma and its processor together: pictures and prompts in, answers, boxes and masks out, in batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import keras
import numpy as np

from diptych.core.data.detections import Detection, mask_in_picture
from diptych.core.data.processor.prompted import PaliGemmaProcessor
from diptych.models import MaskDecoder, PaliGemma
from diptych.models.generation import uniform_noise
from diptych.models.paligemma.generation import AnswerGenerator
from diptych.models.pretrained import trained_preset

SHORTEST = 16
TEXT_FIELDS = ("token_ids", "token_mask", "suffix_mask")


def bucket(length: int) -> int:
    """The length that texts are padded to: the next power of two, 16 at least. Each is compiled once."""
    return max(SHORTEST, 1 << (length - 1).bit_length())


@dataclass(frozen=True)
class Answerer:
    """Answers prompts about pictures.

    Attributes:
        model, processor: of one checkpoint.
        mask_decoder: of the codes that segmentation writes; None where no masks are asked for.
    """

    model: PaliGemma
    processor: PaliGemmaProcessor
    mask_decoder: MaskDecoder | None = None
    _generators: dict[tuple, AnswerGenerator] = field(default_factory=dict, repr=False)

    @classmethod
    def open(
        cls,
        model: str | Path,
        *,
        masks: str | Path | None = None,
        pictures: int = 1,
        revision: str | None = None,
        dtype: str | None = None,
    ) -> Self:
        """The model and processor of a checkpoint, a folder or "hf://owner/name".

        Args:
            masks: the archive vae-oid.npz, or a folder, with the decoder of mask codes; None for no masks.
            pictures: how many an example has.
            dtype: of `PaliGemma`; "bfloat16" takes half the memory.

        Raises:
            FileNotFoundError, ValueError: of the processor, which is read first, and of the models.
        """
        preset = trained_preset(model)
        processor = PaliGemmaProcessor.from_preset(preset, revision=revision)
        decoder = None if masks is None else MaskDecoder.from_preset(masks)
        return cls(PaliGemma.from_preset(preset, revision=revision, pictures=pictures, dtype=dtype), processor, decoder)

    def answers(
        self,
        pictures: Sequence[Any],
        prompts: Sequence[str],
        *,
        steps: int = 64,
        batch_size: int = 8,
        seed: int = 0,
        **choices,
    ) -> list[str]:
        """The answer to each prompt about the example of pictures at its place.

        Args:
            pictures: items of `PaliGemmaProcessor.images`.
            steps: tokens of an answer, at most.
            batch_size: examples at a time.
            seed, choices: of `continue_prompts`: temperature, top_p, top_k, beams, length_penalty.
        """
        found: list[str] = []
        for number, (batch, size) in enumerate(self._batches(pictures, prompts, None, batch_size)):
            del batch["suffix_mask"]
            if choices.get("temperature"):
                batch["noise"] = uniform_noise(len(batch["token_ids"]), steps, seed + number)
            tokens = keras.ops.convert_to_numpy(self._generator(steps, choices).predict_on_batch(batch))
            found += [self.processor.read(row) for row in tokens[:size]]
        return found

    def log_probabilities(
        self, pictures: Sequence[Any], prompts: Sequence[str], answers: Sequence[str], *, batch_size: int = 8
    ) -> np.ndarray:
        """log p of each given answer, its end included, to the prompt at its place, float32 [n]."""
        found = [np.zeros(0, np.float32)]
        for batch, size in self._batches(pictures, prompts, answers, batch_size):
            scores = self.model.answer_log_probabilities(batch)
            found.append(keras.ops.convert_to_numpy(keras.ops.stop_gradient(scores))[:size])
        return np.concatenate(found)

    def masks(self, detections: Sequence[Detection], height: int, width: int) -> list[np.ndarray | None]:
        """For each detection the mask that its codes stand for, bool [height, width]; None where it has no codes.

        Raises:
            ValueError: for codes without a decoder of them.
        """
        coded = [place for place, one in enumerate(detections) if one.codes is not None]
        found: list[np.ndarray | None] = [None] * len(detections)
        if not coded:
            return found
        if self.mask_decoder is None:
            raise ValueError(
                f"{len(coded)} answers have codes of a mask, and no decoder of them was opened. Give --masks "
                "vae-oid.npz, the archive that big_vision reads them with."
            )
        codes = np.array([detections[place].codes for place in coded], np.int32)
        for place, mask in zip(
            coded, keras.ops.convert_to_numpy(self.mask_decoder.predict_on_batch(codes)), strict=True
        ):
            found[place] = mask_in_picture(mask, detections[place].pixel_box(height, width), height, width)
        return found

    def _batches(
        self, pictures: Sequence[Any], prompts: Sequence[str], answers: Sequence[str] | None, batch_size: int
    ) -> Iterator[tuple[dict[str, np.ndarray], int]]:
        """The model's inputs, and how many of their examples were asked for; the last batch is filled up, so that all
        have one size.
        """
        size = max(1, min(batch_size, len(prompts)))
        for start in range(0, len(prompts), size):
            rows = slice(start, start + size)
            chosen = None if answers is None else answers[rows]
            batch = self.processor(images=pictures[rows], prompts=prompts[rows], answers=chosen)
            count, length = batch["token_ids"].shape
            more = bucket(length) - length
            padded = {name: np.pad(batch[name], ((0, 0), (0, more))) for name in TEXT_FIELDS}
            yield {name: np.resize(x, (size, *x.shape[1:])) for name, x in (batch | padded).items()}, count

    def _generator(self, steps: int, choices: dict[str, Any]) -> AnswerGenerator:
        key = (steps, *sorted(choices.items()))
        if key not in self._generators:
            self._generators[key] = AnswerGenerator(self.model, steps=steps, **choices)
        return self._generators[key]
