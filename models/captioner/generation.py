"""Captions from the decoder: texts about images (see `diptych.models.generation`).

Keys and values of the image are projected once.
"""

import keras
from keras import ops

from diptych.models.captioner.model import Captioner
from diptych.models.decoding import InPrecision
from diptych.models.generation import NextLogits, continue_prompts


class ImageDecoder:
    """A captioner that looks at images, as a `diptych.models.generation.Decoder`.

    Args:
        encoder_tokens: `[batch, image tokens, encoder_width]`.
        encoder_mask: bool `[batch, image tokens]`, False for padding.
    """

    start_id = 0

    def __init__(self, captioner: Captioner, encoder_tokens, encoder_mask=None):
        self._captioner, self._mask = captioner, encoder_mask
        self._tokens = ops.stop_gradient(ops.convert_to_tensor(encoder_tokens))

    @property
    def context_length(self) -> int:
        """The number of places that the captioner has positions for."""
        return self._captioner.config.context_length

    @property
    def variables(self) -> list[keras.Variable]:
        """The captioner's."""
        return self._captioner.variables

    def begin(self, batch, length: int) -> tuple[NextLogits, tuple]:
        """See `diptych.models.generation.Decoder`; caches are each block's keys and values of earlier tokens."""
        captioner = self._captioner
        images = InPrecision(captioner.image_keys_values, captioner)(self._tokens)
        next_logits = InPrecision(
            lambda tokens, place, caches: captioner.step(tokens, place, caches, images, self._mask), captioner
        )
        return next_logits, tuple(block.attention.empty_cache(batch, length) for block in captioner.blocks)


def generate(captioner: Captioner, encoder_tokens, prompt_ids, *, encoder_mask=None, **choices):
    """The next tokens of each row, int32 `[batch, steps]`, with 0 behind the end.

    Args:
        encoder_tokens, encoder_mask: of `ImageDecoder`.
        prompt_ids, choices: of `continue_prompts`.

    On jax each call compiles the loop anew; `Generator` keeps it.
    """
    return continue_prompts(ImageDecoder(captioner, encoder_tokens, encoder_mask), prompt_ids, **choices)


@keras.saving.register_keras_serializable("diptych")
class Generator(keras.Model):
    """`generate` for one batch after another: `predict_on_batch` compiles it once for each shape.

    >>> generator = Generator(captioner, steps=16)
    >>> generator.predict_on_batch({"encoder_tokens": tokens, "prompt_ids": prompts, "prompt_lengths": lengths})

    Args:
        captioner, steps, eos_id, temperature, top_p: of `generate`; its tensors come in the batch, by name:
            encoder_tokens and prompt_ids, and where wanted prompt_lengths, encoder_mask and, for draws, noise.
    """

    def __init__(
        self,
        captioner: Captioner,
        *,
        steps: int,
        eos_id: int | None = 1,
        temperature: float | None = None,
        top_p: float = 1.0,
        name: str = "generator",
    ):
        super().__init__(dtype="float32", name=name)  # noise would lose its bits in bfloat16
        self.captioner = captioner
        self.choices = {"steps": steps, "eos_id": eos_id, "temperature": temperature, "top_p": top_p}
        self.built = True

    def call(self, batch):
        return generate(self.captioner, **batch, **self.choices)

    def get_config(self):
        captioner = keras.saving.serialize_keras_object(self.captioner)
        return {"captioner": captioner, **self.choices, "name": self.name}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(**keras.saving.deserialize_keras_object(config, custom_objects=custom_objects))
