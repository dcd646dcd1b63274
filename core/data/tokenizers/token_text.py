"""Token ids back to text, for what a decoder wrote."""

import re
from collections.abc import Iterable

from diptych.core.data.tokenizers.base import Tokenizer

_SPACE = "\u2581"  # with which SentencePiece writes the space before a word
_BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")
_UNKNOWN = ("<unk>", "[UNK]")


def text_of(tokenizer: Tokenizer, ids: Iterable[int]) -> str:
    """The text of token ids up to the first end-of-text, without padding and marks, single spaces between words.

    For SentencePiece vocabularies and a tokenizer.json of that kind (Gemma's), whose pieces spell their spaces; not for
    CLIP's. Bytes that are no UTF-8, which a decoder may write, become U+FFFD.
    """
    skipped = {tokenizer.pad_id, tokenizer.bos_id}
    data = bytearray()
    for token_id in map(int, ids):
        if token_id == tokenizer.eos_id:
            break
        if token_id not in skipped:
            data += _bytes(tokenizer.token(token_id))
    return " ".join(data.decode("utf-8", errors="replace").split())


def _bytes(token: str) -> bytes:
    if token in _UNKNOWN:
        return b""
    byte = _BYTE.fullmatch(token)
    return bytes([int(byte.group(1), 16)]) if byte else token.replace(_SPACE, " ").encode()
