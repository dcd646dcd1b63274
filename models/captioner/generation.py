"""Captions from the decoder: texts about images (see `diptych.models.generation`).

Keys and values of the image are projected once.
"""

import keras
from keras import ops

from diptych.models.captioner.model import Captioner
from diptych.models.decoding import Begun, in_precision
from diptych.models.generation import BatchGenerator, continue_prompts


class ImageDecoder:
    """A captioner that looks at images, as a `diptych.models.decoding.Decoder`.

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

    def begin(self, batch, length: int) -> Begun:
        """See `diptych.models.decoding.Decoder`; caches are each block's keys and values of earlier tokens."""
        captioner = self._captioner
        images = in_precision(captioner.image_keys_values, captioner)(self._tokens)
        next_logits = in_precision(
            lambda tokens, place, caches: captioner.step(tokens, place, caches, images, self._mask), captioner
        )
        return Begun(next_logits, tuple(block.attention.empty_cache(batch, length) for block in captioner.blocks))


def generate(captioner: Captioner, encoder_tokens, prompt_ids, *, encoder_mask=None, **choices):
    """The next tokens of each row, int32 `[batch, steps]`, with 0 behind the end.

    Args:
        encoder_tokens, encoder_mask: of `ImageDecoder`.
        prompt_ids, choices: of `continue_prompts`.

    On jax each call compiles the loop anew; `Generator` keeps it.
    """
    return continue_prompts(ImageDecoder(captioner, encoder_tokens, encoder_mask), prompt_ids, **choices)


@keras.saving.register_keras_serializable("diptych")
class Generator(BatchGenerator):
    """`generate` for one batch after another.

    >>> generator = Generator(captioner, steps=16)
    >>> generator.predict_on_batch({"encoder_tokens": tokens, "prompt_ids": prompts, "prompt_lengths": lengths})

    A batch has encoder_tokens and prompt_ids, and where wanted prompt_lengths, encoder_mask and, for draws, noise.
    """

    def written(self, batch):
        return generate(self.model, **batch, **self.choices)
