"""Generation asks any decoder the same way: here one without images, with positions inside its attention."""

import keras
import numpy as np
import pytest
from keras import ops

from diptych.models.generation import continue_prompts
from diptych.models.parts.block import Block, BlockConfig
from tests.models.examples import numpy_of

WIDTH, VOCABULARY, PLACES, STEPS = 8, 11, 9, 5
BLOCK = BlockConfig(
    num_heads=4,
    num_key_value_heads=2,
    mlp_dim=12,
    causal=True,
    rotary_base=50.0,
    norm="rms",
    gated=True,
    use_bias=False,
)
PROMPTS = np.array([[3, 4, 5], [7, 0, 0], [2, 9, 0]], "int32")
LENGTHS = np.array([3, 1, 2], "int32")


class LanguageModel(keras.layers.Layer):
    """Token ids `[batch, length]` -> logits of the token behind each."""

    context_length = PLACES

    def __init__(self, start_id: int | None):
        super().__init__()
        self.start_id = start_id
        self.blocks = [Block(config=BLOCK, name=f"block_{index}") for index in range(2)]
        for block in self.blocks:
            block.build((None, PLACES, WIDTH))
        self.table, self.head = (self.add_weight(shape=shape) for shape in ((VOCABULARY, WIDTH), (WIDTH, VOCABULARY)))
        rng = np.random.default_rng(2)
        for variable in self.variables:
            variable.assign(rng.normal(0, 0.8, variable.shape))
        self.built = True

    def call(self, ids):
        x = ops.take(self.table, ids, axis=0)
        for block in self.blocks:
            x = block.call(x)
        return ops.matmul(x, self.head)

    def begin(self, batch, length):
        def next_logits(tokens, place, caches):
            x, kept = ops.take(self.table, tokens, axis=0)[:, None], []
            known = (ops.arange(length, dtype="int32") <= place)[None, None, None]
            for block, cache in zip(self.blocks, caches, strict=True):
                x, cache = block.step(x, cache, place, token_mask=known)
                kept.append(cache)
            return ops.matmul(x[:, 0], self.head), tuple(kept)

        return next_logits, tuple(block.attention.empty_cache(batch, length) for block in self.blocks)


@pytest.mark.parametrize("start_id", [None, 10])
def test_the_likeliest_tokens_are_those_without_a_cache(start_id):
    model = LanguageModel(start_id)
    got = numpy_of(continue_prompts(model, PROMPTS, steps=STEPS, prompt_lengths=LENGTHS, eos_id=None))
    expected = np.zeros((len(PROMPTS), STEPS))
    front = [] if start_id is None else [start_id]
    for row, length in enumerate(LENGTHS):
        text = front + list(PROMPTS[row, :length])
        for step in range(STEPS):
            padded = np.array([text + [0] * (PLACES - len(text))], "int32")
            text.append(int(numpy_of(model(padded))[0, len(text) - 1].argmax()))
            expected[row, step] = text[-1]
    assert np.array_equal(got, expected)
    assert len(np.unique(expected)) > 3


def test_a_text_begins_somewhere():
    nothing = np.zeros((2, 0), "int32")
    with pytest.raises(ValueError, match="a prompt of at least one token"):
        continue_prompts(LanguageModel(None), nothing, steps=2)
    assert continue_prompts(LanguageModel(10), nothing, steps=2).shape == (2, 2)
    with pytest.raises(ValueError, match="positions for 9 tokens; a prompt of 3 and 7 steps need more"):
        continue_prompts(LanguageModel(10), PROMPTS, steps=7)
