"""The numbers of a language model on a text: bits a byte, nats and perplexity a token."""

import math
from collections.abc import Mapping
from typing import TypedDict


class LanguageResult(TypedDict):
    """What is known of a text after a model has read it.

    Bits are counted for each byte of the text as the vocabulary spells it, UTF-8: in lower case, with one space between
    words. The first token of each document, which nothing predicts, takes as many bits as if all tokens were alike.
    """

    bits_per_byte: float
    loss: float  # nats, the mean over all predicted tokens
    perplexity: float  # of a token
    tokens: int  # that were predicted
    bytes: int
    unknown: int  # tokens that the vocabulary lacks
    baselines: Mapping[str, float]  # bits per byte of counting and compressing


def language_result(
    nats: float, *, tokens: int, documents: int, bytes: int, unknown: int, vocab_size: int
) -> LanguageResult:
    """The result of a text whose predicted tokens take `nats` together; without baselines."""
    first = documents * math.log2(vocab_size)
    loss = nats / max(1, tokens)
    return {
        "bits_per_byte": (nats / math.log(2) + first) / max(1, bytes),
        "loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),
        "tokens": tokens,
        "bytes": bytes,
        "unknown": unknown,
        "baselines": {},
    }


def language_text(scored: Mapping[str, LanguageResult]) -> str:
    """What a run prints of them: a line a set, and a line a baseline below."""
    lines = []
    for name, result in scored.items():
        lines.append(
            f"{name}: {result['bits_per_byte']:.3f} bits a byte, perplexity {result['perplexity']:,.2f} a token, of "
            f"{result['tokens']:,} tokens ({result['unknown'] / max(1, result['tokens']):.2%} unknown) and "
            f"{result['bytes']:,} bytes"
        )
        lines += [f"  {baseline}: {bits:.3f} bits a byte" for baseline, bits in result["baselines"].items()]
    return "\n".join(lines)
