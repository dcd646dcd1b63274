"""The numbers of a language model on a text: bits a byte, nats and perplexity a token."""

import math
from collections.abc import Mapping
from typing import TypedDict

MOST_UNKNOWN = 0.02
"""Share of a text's tokens that the vocabulary may lack without a warning."""


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


class Spelled(TypedDict):
    """What a vocabulary makes of texts."""

    tokens: int
    unknown: int  # of these


def unknown_warnings(scored: Mapping[str, Spelled]) -> list[str]:
    """A sentence on each text that the vocabulary cannot spell."""
    return [
        f"{result['unknown']:,} of {result['tokens']:,} tokens of {name} are unknown to the vocabulary, so what is "
        "judged is not the text: give another by --tokenizer, or have one learned from such texts."
        for name, result in scored.items()
        if result["unknown"] > MOST_UNKNOWN * result["tokens"]
    ]


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
