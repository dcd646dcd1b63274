"""Baselines of language models: probabilities that add up, and the counts that they come from."""

import math

import numpy as np
import pytest

from diptych.core.evaluation.language import language_result, language_text, unknown_warnings
from diptych.core.evaluation.text_baselines import compressed_bits, ngram_bits, unigram_bits


def share_of(learned: bytes, context: bytes, byte: int) -> float:
    """By counting, byte for byte."""
    lower = share_of(learned, context[1:], byte) if context else 1 / 256
    size = len(context)
    followers = [learned[at] for at in range(size, len(learned)) if learned[at - size : at] == context]
    kinds = len({*followers})
    return (followers.count(byte) + kinds * lower) / (len(followers) + kinds) if followers else lower


def test_ngrams_are_witten_and_bells():
    learned, judged = b"abracadabra, abracadabra and a cab", b"a cadabra band"
    found = ngram_bits(learned, judged)
    for order in (0, 1, 2, 4):
        expected = -sum(
            math.log2(share_of(learned, judged[max(0, place - order) : place], byte))
            for place, byte in enumerate(judged)
        )
        assert found[order] == pytest.approx(expected, rel=1e-9), order
    assert found[2] < found[0] < 8 * len(judged)


def test_tokens_by_themselves_cost_their_own_entropy():
    ids = np.array([0, 0, 1, 2])
    counts = np.bincount(ids, minlength=4) * 1_000_000
    assert unigram_bits(counts, ids) == pytest.approx(1 + 1 + 2 + 2, rel=1e-5)
    assert math.isfinite(unigram_bits(counts, np.array([3])))


def test_what_repeats_is_compressed():
    assert compressed_bits(b"the same words again " * 500) < 0.2 * 8 * 21 * 500


def test_bits_a_byte_count_the_first_token_of_each_document_too():
    result = language_result(10 * math.log(2), tokens=5, documents=2, bytes=8, unknown=1, vocab_size=16)
    assert result["bits_per_byte"] == pytest.approx((10 + 2 * 4) / 8)
    assert result["perplexity"] == pytest.approx(4)
    told = language_text({"Held-out documents": {**result, "baselines": {"xz": 2.5}}})
    assert "2.250 bits a byte" in told
    assert "xz: 2.500" in told
    assert unknown_warnings({"a text": {**result, "tokens": 100, "unknown": 2}}) == []
    (warning,) = unknown_warnings({"a text": {**result, "tokens": 100, "unknown": 3}})
    assert "3 of 100 tokens of a text are unknown to the vocabulary" in warning
