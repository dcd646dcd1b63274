"""The captioning decoder: features, losses and all gradients on every backend, against the oracle and each other."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.agreement.compare import check_values
from tests.agreement.strategies import WIDTHS_AND_HEADS, agreement_settings
from tests.oracle.captioner import captioner
from tests.oracle.captioner_examples import captioner_conditions, draw_captioner_problem, weight_shapes
from tests.tolerances import HEADROOM, LARGEST_SEEN, UNIT_ROUNDOFF, limit

IMAGE_TOKENS = 6
CONFIG = {
    "width": 12, "depth": 2, "mlp_dim": 16, "num_heads": 3, "vocab_size": 23, "context_length": 7, "encoder_width": 10,
    "use_bias": False, "tie_embeddings": False,
}  # fmt: skip


@st.composite
def configs(draw, *, smallest_width: int = 8) -> dict:
    """The fields of a `CaptionerConfig` as a dictionary."""
    width, num_heads = draw(st.sampled_from([size for size in WIDTHS_AND_HEADS if size[0] >= smallest_width]))
    return {
        "width": width,
        "num_heads": num_heads,
        "depth": draw(st.integers(1, 2)),
        "mlp_dim": draw(st.sampled_from([7, 33])),
        "vocab_size": draw(st.sampled_from([23, 97])),
        "context_length": draw(st.sampled_from([4, 7])),
        "encoder_width": draw(st.sampled_from([10, 40])),
        "use_bias": draw(st.booleans()),
        "tie_embeddings": draw(st.booleans()),
    }


def path_length(config, dtype) -> int:
    """Σ of the lengths of the sums on a token's way through the decoder and its logits; see `tests.tolerances`."""
    width, depth = config["width"], config["depth"]
    if dtype == "mixed_bfloat16":
        return 24 * depth + 8  # roundings of stored results
    head, tokens, image = width // config["num_heads"], config["context_length"], config["encoder_width"]
    own = width + head + 2 * tokens + width
    looking = width + image + head + 2 * IMAGE_TOKENS + width
    return depth * (3 * width + own + looking + width + config["mlp_dim"]) + 2 * width + config["vocab_size"]


def tolerances(config, dtype, conditions) -> dict[str, float]:
    """name -> tolerance relative to the norm, for the names of the oracle's `Answer.named()`."""
    base = UNIT_ROUNDOFF[dtype] * math.sqrt(path_length(config, dtype))
    return {name: min(HEADROOM * base * max(1.0, c), limit(name, dtype)) for name, c in conditions.items()}


def well_conditioned_problem(config, dtype, seed, **shape):
    """(weights, batch, answer, tolerances) of the first seed whose case the dtype's limits can judge."""
    for tried in range(seed, seed + 50):
        weights, batch = draw_captioner_problem(config, seed=tried, image_tokens=IMAGE_TOKENS, **shape)
        answer = captioner(config, weights, batch)
        conditions = captioner_conditions(config, weights, batch, answer)
        base = LARGEST_SEEN * UNIT_ROUNDOFF[dtype] * math.sqrt(path_length(config, dtype))
        if all(base * max(1.0, c) <= limit(name, dtype) for name, c in conditions.items()):
            return weights, batch, answer, tolerances(config, dtype, conditions)
    raise RuntimeError(f"None of fifty seeds from {seed} makes a well conditioned case of {config} in {dtype}.")


def ask(pool, function, **arguments):
    return pool.ask("call", module="tests.agreement.captioner_side", function=function, arguments=arguments)


def check(pool, config, dtype, *, seed, rematerialize, batch_size):
    weights, batch, answer, allowed = well_conditioned_problem(config, dtype, seed, batch_size=batch_size)
    replies = ask(
        pool, "evaluate", config=config, weights=weights, batch=batch, dtype=dtype, rematerialize=rematerialize
    )
    for backend, reply in replies.items():
        check_values(reply, answer.named(), allowed, who=f"{backend}, {dtype}")
    for first, second in combinations(replies, 2):
        check_values(replies[first], replies[second], allowed, who=f"{first} and {second}")


@agreement_settings(examples=4)
@given(config=configs(), seed=st.integers(0, 2**31), rematerialize=st.booleans(), batch_size=st.sampled_from([2, 5]))
def test_float32_agrees(pool, config, seed, rematerialize, batch_size):
    check(pool, config, "float32", seed=seed, rematerialize=rematerialize, batch_size=batch_size)


@agreement_settings(examples=2)
@given(config=configs(smallest_width=24), seed=st.integers(0, 2**31), rematerialize=st.booleans())
def test_bfloat16_compute_agrees(pool, config, seed, rematerialize):
    check(pool, config, "mixed_bfloat16", seed=seed, rematerialize=rematerialize, batch_size=5)


def test_a_wrong_answer_is_refused():
    _, _, answer, allowed = well_conditioned_problem(CONFIG, "float32", 0, batch_size=3)
    right = answer.named()
    check_values(right, right, allowed, who="the oracle")
    for name in ("hidden", "block_00/image_attention/key_value_kernel", "gradient/encoder_tokens", "logits_kernel"):
        for wrong in (np.zeros_like(right[name]), -right[name], right[name] * np.nan, right[name] * 1.001):
            with pytest.raises(AssertionError, match=name):
                check_values(right | {name: wrong}, right, allowed, who="a wrong one")


def test_the_same_seed_gives_the_same_bits(pool):
    first, *others = ask(pool, "initial_weights", config=CONFIG, seed=11).values()
    assert {name: value.shape for name, value in first.items()} == weight_shapes(CONFIG)
    for other in others:
        assert list(other) == list(first)
        assert all(value.tobytes() == other[name].tobytes() for name, value in first.items())


@pytest.mark.parametrize("choices", [{}, {"temperature": 0.9, "top_p": 0.8}], ids=["greedy", "nucleus"])
def test_the_same_noise_gives_the_same_tokens(pool, choices):
    weights, batch = draw_captioner_problem(CONFIG, seed=2, batch_size=5, image_tokens=IMAGE_TOKENS)
    noise = np.random.default_rng(0).random((5, 4), dtype="float32")
    arguments = {
        "encoder_tokens": batch["encoder_tokens"],
        "encoder_mask": batch["encoder_mask"],
        "prompt_ids": batch["token_ids"][:, 0, :3],
        "prompt_lengths": np.array([3, 1, 0, 2, 3], "int32"),
        "noise": noise,
    }
    replies = ask(pool, "tokens", config=CONFIG, weights=weights, batch=arguments, steps=4, **choices)
    first, *others = replies.values()
    assert first.shape == (5, 4)
    assert len(np.unique(first)) > 3
    assert all(np.array_equal(first, other) for other in others)
