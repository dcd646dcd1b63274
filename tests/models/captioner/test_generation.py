"""Generation: the cache changes nothing, greedy is the likeliest token, draws stay inside the nucleus."""

from dataclasses import asdict

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from diptych.models.captioner.config import CaptionerConfig
from diptych.models.captioner.generation import Generator, ImageDecoder, generate
from diptych.models.captioner.model import Captioner
from diptych.models.generation import sample_nucleus, uniform_noise
from tests.models.examples import numpy_of
from tests.oracle.captioner_examples import draw_captioner_problem

CONFIG = CaptionerConfig(width=12, depth=2, mlp_dim=20, num_heads=3, vocab_size=11, context_length=8, encoder_width=10)
ROWS, PROMPT, STEPS = 4, 3, 5
WEIGHTS, _BATCH = draw_captioner_problem(asdict(CONFIG), seed=5, batch_size=ROWS, image_tokens=4)
IMAGE, IMAGE_MASK = _BATCH["encoder_tokens"], _BATCH["encoder_mask"]
PROMPTS = _BATCH["token_ids"][:, 0, :PROMPT]
LENGTHS = np.array([3, 0, 1, 2], "int32")
BATCH = {"encoder_tokens": IMAGE, "prompt_ids": PROMPTS, "prompt_lengths": LENGTHS, "encoder_mask": IMAGE_MASK}


def captioner_with(weights, **arguments) -> Captioner:
    captioner = Captioner(CONFIG, **arguments)
    for name, variable in captioner.named_weights().items():
        variable.assign(weights[name])
    return captioner


CAPTIONER = captioner_with(WEIGHTS)


def full_logits(captioner, sequences) -> np.ndarray:
    """Logits `[rows, length, vocabulary]` of a forward pass over whole sequences."""
    hidden = captioner(sequences[:, None].astype("int32"), IMAGE, encoder_mask=IMAGE_MASK)
    return numpy_of(captioner.logits(hidden))[:, 0]


def naive(choose, *, eos_id=1, steps=STEPS) -> np.ndarray:
    """Row by row without a cache: the whole sequence goes through the decoder for each new token."""
    tokens = np.zeros((ROWS, steps), "int32")
    sequences = [list(PROMPTS[row, :length]) for row, length in enumerate(LENGTHS)]
    running = np.ones(ROWS, bool)
    for step in range(steps):
        padded = np.zeros((ROWS, CONFIG.context_length), "int32")
        for row, sequence in enumerate(sequences):
            padded[row, : len(sequence)] = sequence
        logits = full_logits(CAPTIONER, padded)
        for row, sequence in enumerate(sequences):
            if running[row]:
                tokens[row, step] = choose(row, step, logits[row, len(sequence)])
                sequence.append(tokens[row, step])
                running[row] = eos_id is None or tokens[row, step] != eos_id
    return tokens


def greedy(row, step, logits):
    return np.argmax(logits)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_logits_with_a_cache_are_those_of_a_forward_pass(dtype):
    captioner = captioner_with(WEIGHTS, dtype=dtype)
    sequences = _BATCH["token_ids"][:, 1]
    expected = full_logits(captioner, sequences)
    next_logits, caches, _ = ImageDecoder(captioner, IMAGE, IMAGE_MASK).begin(ROWS, CONFIG.context_length)
    entering = np.concatenate([np.zeros((ROWS, 1), "int32"), sequences[:, :-1]], axis=1)
    for place in range(CONFIG.context_length):
        tokens = ops.convert_to_tensor(entering[:, place])
        logits, caches = next_logits(tokens, ops.convert_to_tensor(place, "int32"), caches)
        assert keras.backend.standardize_dtype(logits.dtype) == "float32"
        tolerance = 1e-5 if dtype == "float32" else 0.1
        assert np.allclose(numpy_of(logits), expected[:, place], rtol=tolerance, atol=tolerance)
    assert keras.backend.standardize_dtype(caches[0][0].dtype) == captioner.compute_dtype


@pytest.mark.parametrize("eos_id", [None, 1, 4])
def test_greedy_takes_the_likeliest_token_of_a_forward_pass_step_by_step(eos_id):
    expected = naive(greedy, eos_id=eos_id)
    got = numpy_of(generate(CAPTIONER, **BATCH, steps=STEPS, eos_id=eos_id))
    assert np.array_equal(got, expected)
    assert len(np.unique(expected)) > 2


def test_after_the_end_there_is_padding():
    free = naive(greedy, eos_id=None)
    eos = int(free[0, 1])
    got = numpy_of(generate(CAPTIONER, **BATCH, steps=STEPS, eos_id=eos))
    for row, tokens in enumerate(free):
        ends = np.flatnonzero(tokens == eos)
        stop = ends[0] + 1 if len(ends) else STEPS
        assert np.array_equal(got[row, :stop], tokens[:stop])
        assert not got[row, stop:].any()


def test_what_stands_behind_a_prompt_and_beside_a_row_does_not_matter():
    noise = uniform_noise(ROWS, STEPS, seed=3)
    choices = {"steps": STEPS, "temperature": 1.0, "noise": noise}
    before = numpy_of(generate(CAPTIONER, **BATCH, **choices))
    garbage = np.where(np.arange(PROMPT) < LENGTHS[:, None], PROMPTS, 9)
    assert np.array_equal(numpy_of(generate(CAPTIONER, **BATCH | {"prompt_ids": garbage}, **choices)), before)
    for row in (1, 2):
        alone = {name: value[row : row + 1] for name, value in BATCH.items()}
        alone["prompt_ids"] = alone["prompt_ids"][:, : LENGTHS[row]]
        got = generate(CAPTIONER, **alone, **choices | {"noise": noise[row : row + 1]})
        assert np.array_equal(numpy_of(got)[0], before[row])


def test_draws_are_those_of_the_formula():
    noise = uniform_noise(ROWS, STEPS, seed=1)

    def draw(row, step, logits):
        return by_hand(logits, noise[row, step], temperature=0.7, top_p=0.8)

    got = numpy_of(generate(CAPTIONER, **BATCH, steps=STEPS, temperature=0.7, top_p=0.8, noise=noise))
    assert np.array_equal(got, naive(draw))
    assert np.array_equal(got, numpy_of(generate(CAPTIONER, **BATCH, steps=STEPS, temperature=0.7, top_p=0.8, seed=1)))
    assert not np.array_equal(noise, uniform_noise(ROWS, STEPS, seed=2))


def nucleus(logits, *, temperature, top_p) -> tuple[np.ndarray, np.ndarray]:
    """The tokens of the nucleus, likeliest first, and their probabilities, in float64."""
    scaled = logits.astype("float64") / temperature
    probabilities = np.exp(scaled - np.logaddexp.reduce(scaled))
    order = np.argsort(-probabilities, kind="stable")
    size = np.searchsorted(np.cumsum(probabilities[order]), top_p) + 1
    return order[:size], probabilities[order[:size]]


def by_hand(logits, uniform, **choices) -> int:
    tokens, probabilities = nucleus(logits, **choices)
    reached = np.cumsum(probabilities)
    return int(tokens[np.searchsorted(reached, uniform * reached[-1], side="right")])


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    temperature=st.sampled_from([0.1, 1.0, 3.0]),
    top_p=st.sampled_from([1e-6, 0.3, 0.9, 1.0]),
    uniform=st.sampled_from([0.0, 0.25, 0.5, 1 - 2.0**-24]),
)
def test_no_draw_leaves_the_nucleus(seed, temperature, top_p, uniform):
    logits = np.random.default_rng(seed).normal(0, 2, (3, 13)).astype("float32")
    choices = {"temperature": temperature, "top_p": top_p}
    drawn = numpy_of(sample_nucleus(logits, ops.full((3,), uniform), **choices)).astype(int)
    for row, token in enumerate(drawn):
        tokens, _ = nucleus(logits[row], **choices)
        assert token in tokens
        if uniform in (0.0, 1 - 2.0**-24) and top_p < 1:
            assert token == tokens[0 if uniform == 0.0 else -1]


def test_tokens_are_drawn_as_often_as_they_are_likely():
    logits = np.log(np.array([0.05, 0.4, 0.2, 0.3, 0.05], "float32"))
    count = 20_000
    uniform = (np.arange(count, dtype="float32") + 0.5) / count
    drawn = numpy_of(sample_nucleus(np.tile(logits, (count, 1)), uniform, temperature=1.0, top_p=0.85))
    shares = np.bincount(drawn.astype(int), minlength=5) / count
    assert np.allclose(shares, np.array([0, 0.4, 0.2, 0.3, 0]) / 0.9, atol=1e-3)
    colder = numpy_of(sample_nucleus(np.tile(logits, (count, 1)), uniform, temperature=0.5, top_p=1.0))
    squares = np.exp(2 * logits.astype("float64"))
    assert np.allclose(np.bincount(colder.astype(int), minlength=5) / count, squares / squares.sum(), atol=1e-3)


def test_the_compiled_generator_gives_the_same_tokens_batch_after_batch():
    choices = {"steps": STEPS, "temperature": 1.0, "top_p": 0.9}
    batch = BATCH | {"noise": uniform_noise(ROWS, STEPS, seed=4)}
    expected = numpy_of(generate(CAPTIONER, **batch, **choices))
    generator = Generator(CAPTIONER, **choices)
    for size in (ROWS, 2, 3, ROWS):
        got = generator.predict_on_batch({name: value[:size] for name, value in batch.items()})
        assert np.array_equal(got, expected[:size])
    assert generator.get_config()["top_p"] == 0.9


def test_the_compiled_generator_sees_weights_that_changed():
    captioner = captioner_with(WEIGHTS)
    generator = Generator(captioner, steps=STEPS, eos_id=None)
    generator.predict_on_batch(BATCH)
    captioner.named_weights()["logits_bias"].assign(100.0 * np.eye(CONFIG.vocab_size)[7])
    assert (generator.predict_on_batch(BATCH) == 7).all()


def test_beams_of_each_image_look_at_their_image():
    choices = {"steps": STEPS, "eos_id": 4, "beams": 3}
    together = numpy_of(generate(CAPTIONER, **BATCH, **choices))
    alone = {name: value[2:3] for name, value in BATCH.items()}
    assert np.array_equal(numpy_of(generate(CAPTIONER, **alone, **choices))[0], together[2])

    def score(tokens):
        """The mean log-probability of each row's tokens, by forward passes over whole sequences."""
        sequences = np.zeros((ROWS, CONFIG.context_length), "int32")
        for row, length in enumerate(LENGTHS):
            sequences[row, : length + STEPS] = [*PROMPTS[row, :length], *tokens[row]]
        logits = full_logits(CAPTIONER, sequences).astype("float64")
        of_tokens = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
        counted = [np.flatnonzero(each == 4)[:1].tolist() or [STEPS - 1] for each in tokens]
        return [
            np.mean([of_tokens[row, length + step, tokens[row, step]] for step in range(counted[row][0] + 1)])
            for row, length in enumerate(LENGTHS)
        ]

    greedy = numpy_of(generate(CAPTIONER, **BATCH, steps=STEPS, eos_id=4)).astype("int32")
    gains = np.array(score(together.astype("int32"))) - score(greedy)
    assert gains.max() > 0.01, "a search that finds no more than the likeliest token at each place"
    assert (gains > -0.2).all()


@pytest.mark.skipif(keras.config.backend() != "torch", reason="only eager torch would remember each step")
def test_torch_remembers_no_step_for_a_gradient():
    assert not generate(CAPTIONER, **BATCH, steps=STEPS, temperature=1.0).requires_grad
    import torch

    saved = []
    with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda tensor: tensor):
        generate(CAPTIONER, **BATCH, steps=STEPS)
    assert not saved


def test_impossible_requests_are_refused():
    with pytest.raises(ValueError, match="positions for 8 tokens; a prompt of 3 and 6 steps need more"):
        generate(CAPTIONER, IMAGE, PROMPTS, steps=6)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        generate(CAPTIONER, IMAGE, PROMPTS, steps=0)
    with pytest.raises(ValueError, match=r"temperature must be positive, or None .* got 0"):
        generate(CAPTIONER, IMAGE, PROMPTS, steps=2, temperature=0)
    with pytest.raises(ValueError, match=r"top_p must be in \(0, 1\], got 1.5"):
        generate(CAPTIONER, IMAGE, PROMPTS, steps=2, temperature=1.0, top_p=1.5)
