"""A GPT's texts with a cache are those without one."""

import os
from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import ops

from diptych.models.gpt.model import GPT
from diptych.models.parts.initializers import generator
from tests.models.examples import numpy_of
from tests.models.gpt.small_gpt import CONFIG, ROWS, gpt_of, texts

MODEL = gpt_of()
STEPS = 5
PROMPTS, LENGTHS = texts(3), np.array([3, 1, 2], "int32")


def logits_of(ids):
    return MODEL.logits(MODEL(ids)["tokens"])


def compiled_once(function):
    """The function, on jax compiled once for each shape."""
    if keras.config.backend() != "jax":
        return function
    import jax

    return jax.jit(function)


LOGITS_OF = compiled_once(logits_of)


def uncached(choose) -> np.ndarray:
    """The whole text goes through the model for each new token."""
    sequences = np.zeros((ROWS, CONFIG.context_length), "int32")
    for row, length in enumerate(LENGTHS):
        sequences[row, :length] = PROMPTS[row, :length]
    for step in range(STEPS):
        logits = numpy_of(LOGITS_OF(sequences))
        for row, place in enumerate(LENGTHS + step):
            sequences[row, place] = choose(row, step, logits[row, place - 1])
    return np.stack([sequences[row, length : length + STEPS] for row, length in enumerate(LENGTHS)])


def test_logits_with_a_cache_are_those_of_a_forward_pass():
    ids = texts()
    expected = numpy_of(LOGITS_OF(ids))
    next_logits, caches, _ = MODEL.begin(ROWS, ids.shape[1])
    for place in range(ids.shape[1]):
        given = ops.convert_to_tensor(ids[:, place]), ops.convert_to_tensor(place, "int32")
        logits, caches = next_logits(*given, caches)
        np.testing.assert_allclose(numpy_of(logits), expected[:, place], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("kind", ["greedy", "top-k", "nucleus"])
def test_texts_with_a_cache_are_those_without(kind):
    noise = generator("a test").random((ROWS, STEPS), dtype="float32")
    choices = {
        "greedy": {},
        "top-k": {"temperature": 0.8, "top_k": 4},
        "nucleus": {"temperature": 1.3, "top_p": 0.7},
    }[kind]

    def choose(row, step, logits):
        if kind == "greedy":
            return logits.argmax()
        logits = logits.astype("float64") / choices["temperature"]
        order = np.argsort(-logits)
        probabilities = np.exp(logits[order] - np.logaddexp.reduce(logits))
        reached = np.cumsum(probabilities)
        size = choices.get("top_k") or np.searchsorted(reached, choices["top_p"]) + 1
        return order[np.searchsorted(reached[:size], noise[row, step] * reached[size - 1], side="right")]

    given = {"noise": noise} if choices else {}
    got = numpy_of(MODEL.generate(PROMPTS, steps=STEPS, prompt_lengths=LENGTHS, **choices, **given))
    assert np.array_equal(got, uncached(choose))
    assert len(np.unique(got)) > 3


def test_positions_are_never_written():
    model = gpt_of(replace(CONFIG, predicts="rows"))
    assert numpy_of(model.generate(texts(3), steps=6)).max() < CONFIG.vocab_size


@pytest.mark.skipif("DIPTYCH_GPT1" not in os.environ, reason="DIPTYCH_GPT1 names no folder with the released weights")
def test_the_released_weights_go_on_as_transformers_tests_say():
    expected = "246 963 870 762 239 244 40477 244 249 719 881 487 544 240 244 603 481"
    model = GPT.from_preset(os.environ["DIPTYCH_GPT1"])
    got = numpy_of(model.generate([[481, 4735, 544]], steps=17))
    assert " ".join(map(str, got[0].astype(int))) == expected
