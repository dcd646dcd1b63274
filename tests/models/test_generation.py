"""Generation asks any decoder the same way: here one without images, with positions inside its attention."""

from functools import partial

import keras
import numpy as np
import pytest
from keras import ops

from diptych.models.beam_search import search_beams
from diptych.models.decoding import Begun
from diptych.models.generation import continue_prompts, sample_nucleus
from diptych.models.parts.block import Block, BlockConfig
from tests.models.examples import forward, numpy_of

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

        return Begun(next_logits, tuple(block.attention.empty_cache(batch, length) for block in self.blocks))


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


def beams_by_hand(model, prompt, beams, *, eos_id, length_penalty=1.0):
    """Without a cache and one text at a time: the continuations that are kept, each with its score, the best first."""
    kept = [(0.0, list(prompt), False)]
    for _ in range(STEPS):
        candidates = []
        for score, text, ended in kept:
            if ended:
                candidates.append((score, text, True))
                continue
            padded = np.array([text + [0] * (PLACES - len(text))], "int32")
            logits = numpy_of(model(padded))[0, len(text) - 1].astype("float64")
            of_tokens = logits - np.logaddexp.reduce(logits)
            candidates += [(score + each, [*text, token], token == eos_id) for token, each in enumerate(of_tokens)]
        kept = sorted(candidates, key=lambda candidate: -candidate[0])[:beams]
    found = [(score / (len(text) - len(prompt)) ** length_penalty, text[len(prompt) :]) for score, text, _ in kept]
    return sorted(found, key=lambda each: -each[0])


@pytest.mark.parametrize(("beams", "eos_id", "length_penalty"), [(3, None, 1.0), (4, 7, 0.7)])
def test_beams_are_those_without_a_cache(beams, eos_id, length_penalty):
    model = LanguageModel(None)
    choices = {"steps": STEPS, "prompt_lengths": LENGTHS, "eos_id": eos_id, "length_penalty": length_penalty}
    tokens, scores = map(numpy_of, search_beams(model, PROMPTS, beams=beams, **choices))
    assert tokens.shape == (len(PROMPTS), beams, STEPS)
    lengths = set()
    for row, length in enumerate(LENGTHS):
        expected = beams_by_hand(model, PROMPTS[row, :length], beams, eos_id=eos_id, length_penalty=length_penalty)
        np.testing.assert_allclose(scores[row], [score for score, _ in expected], rtol=2e-5, atol=2e-5)
        for got, (_, text) in zip(tokens[row], expected, strict=True):
            assert got.tolist() == text + [0] * (STEPS - len(text))
            lengths.add(len(text))
    assert (len(lengths) > 1) == (eos_id is not None)


def test_one_beam_is_greedy_and_enough_of_them_find_the_best_of_all():
    model, choices = LanguageModel(10), {"eos_id": None, "prompt_lengths": LENGTHS}
    greedy = numpy_of(continue_prompts(model, PROMPTS, steps=STEPS, **choices))
    assert np.array_equal(numpy_of(continue_prompts(model, PROMPTS, steps=STEPS, beams=1, **choices)), greedy)
    tokens, scores = map(numpy_of, search_beams(model, PROMPTS, steps=2, beams=VOCABULARY, **choices))
    for row, length in enumerate(LENGTHS):
        text = [10, *PROMPTS[row, :length]]
        padded = [[*text, first] + [0] * (PLACES - len(text) - 1) for first in range(VOCABULARY)]
        log = numpy_of(ops.log_softmax(model(np.array(padded, "int32"))))
        pairs = {
            (first, second): log[first, len(text) - 1, first] + log[first, len(text), second]
            for first in range(VOCABULARY)
            for second in range(VOCABULARY)
        }
        assert tuple(tokens[row, 0]) == max(pairs, key=pairs.get)
        np.testing.assert_allclose(scores[row, 0], max(pairs.values()) / 2, rtol=2e-5, atol=2e-5)


def test_draws_come_from_the_likeliest():
    logits = np.log(np.array([0.05, 0.4, 0.2, 0.3, 0.05], "float32"))
    count = 10_000
    uniform = (np.arange(count, dtype="float32") + 0.5) / count
    for top_k, top_p, expected in (
        (3, 1.0, np.array([0, 4, 2, 3, 0]) / 9),
        (3, 0.7, np.array([0, 4, 0, 3, 0]) / 7),  # 4/9 alone are less than 0.7 of the three
        (1, 1.0, np.array([0, 1, 0, 0, 0])),
        (99, 1.0, np.exp(logits)),
    ):
        choices = {"temperature": 1.0, "top_p": top_p, "top_k": top_k}
        drawn = forward(partial(sample_nucleus, uniform=uniform, **choices), np.tile(logits, (count, 1)))
        np.testing.assert_allclose(np.bincount(numpy_of(drawn).astype(int), minlength=5) / count, expected, atol=1e-3)


def test_choices_that_contradict_each_other_are_refused():
    model = LanguageModel(None)
    with pytest.raises(ValueError, match="beams must be at least 1, got 0"):
        continue_prompts(model, PROMPTS, steps=2, beams=0)
    with pytest.raises(ValueError, match="give temperature=1.0 or beams=2"):
        continue_prompts(model, PROMPTS, steps=2, beams=2, temperature=1.0)
    with pytest.raises(ValueError, match="top_k must be at least 1, or None for all tokens, got 0"):
        continue_prompts(model, PROMPTS, steps=2, temperature=1.0, top_k=0)
    with pytest.raises(ValueError, match="top_k=3 says what is drawn from, and nothing is drawn: give a temperature"):
        continue_prompts(model, PROMPTS, steps=2, top_k=3)


def test_a_text_begins_somewhere():
    nothing = np.zeros((2, 0), "int32")
    with pytest.raises(ValueError, match="a prompt of at least one token"):
        continue_prompts(LanguageModel(None), nothing, steps=2)
    assert continue_prompts(LanguageModel(10), nothing, steps=2).shape == (2, 2)
    with pytest.raises(ValueError, match="positions for 9 tokens; a prompt of 3 and 7 steps need more"):
        continue_prompts(LanguageModel(10), PROMPTS, steps=7)
