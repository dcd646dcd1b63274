"""Baselines of language models: the bits that counting and compressing make of a text."""

import lzma
from collections.abc import Mapping

import numpy as np

MOST_BYTES = 1 << 24
"""Of each text that n-grams are counted in."""
ORDERS = range(7)


def unigram_bits(counts: np.ndarray, ids: np.ndarray) -> float:
    """Bits of tokens that are drawn each by itself, as often as they were counted, each once more.

    Args:
        counts: int64 [vocabulary], of the text that is learned from.
        ids: int [tokens].
    """
    shares = (counts + 1) / (counts.sum() + len(counts))
    return float(-np.log2(shares)[ids].sum())


def compressed_bits(data: bytes) -> int:
    """Bits that xz makes of a text by itself, at its strongest."""
    return 8 * len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))


def ngram_bits(learned: bytes, judged: bytes) -> Mapping[int, float]:
    """Bits of a text by the n-grams of another, by how many bytes before each are looked at: Witten and Bell's (1991)
    mixture of an order with the one below, p(x | c) = (n(c x) + t(c) p(x | c')) / (n(c) + t(c)), where t(c) counts what
    followed c, and c' is c without its first byte. Below the lowest all 256 bytes are alike.

    Of either text no more than `MOST_BYTES` are looked at, and the bits are those of all bytes that are.
    """
    learned, judged = learned[:MOST_BYTES], judged[:MOST_BYTES]
    known, wanted = (np.frombuffer(text, np.uint8).astype(np.int64) for text in (learned, judged))
    share, bits = np.full(len(wanted), 1 / 256), {}
    for order in ORDERS:
        grams, counts = np.unique(_coded(known, order + 1)[order:], return_counts=True)
        contexts, first, types = np.unique(grams >> 8, return_index=True, return_counts=True)
        totals = np.add.reduceat(counts, first) if len(grams) else np.empty(0, np.int64)
        asked = _coded(wanted, order + 1)
        seen = _looked_up(grams, counts, asked)
        total, kinds = (_looked_up(contexts, values, asked >> 8) for values in (totals, types))
        mixed = np.divide(seen + kinds * share, total + kinds, out=share.copy(), where=total > 0)
        share[order:] = mixed[order:]
        bits[order] = float(-np.log2(share).sum())
    return bits


def _coded(text: np.ndarray, length: int) -> np.ndarray:
    """Each byte with the length - 1 before it as one number; at the beginning with zeros before it."""
    codes = np.zeros(len(text), np.int64)
    for back in range(min(length, len(text))):
        codes[back:] |= text[: len(text) - back] << (8 * back)
    return codes


def _looked_up(keys: np.ndarray, values: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """The value of each key that is asked for; 0 for one that is not there. Keys are sorted."""
    if not len(keys):
        return np.zeros(len(asked), np.int64)
    places = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
    return np.where(keys[places] == asked, values[places], 0)
