"""Token ids back to text, for what a decoder wrote."""

import re
from collections.abc import Iterable

from diptych.core.data.tokenizers.base import Tokenizer

_SPACE = "\u2581"  # with which SentencePiece writes the space before a word
_BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")
_UNKNOWN = ("<unk>", "[UNK]")


def text_of(tokenizer: Tokenizer, ids: Iterable[int], *, single_spaces: bool = True) -> str:
    """The text of token ids up to the first end-of-text, without padding and marks, single spaces between words.

    With `single_spaces` False, white space stays as it is, lines of a transcription among it.

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
    text = data.decode("utf-8", errors="replace")
    return " ".join(text.split()) if single_spaces else text


def _bytes(token: str) -> bytes:
    if token in _UNKNOWN:
        return b""
    byte = _BYTE.fullmatch(token)
    return bytes([int(byte.group(1), 16)]) if byte else token.replace(_SPACE, " ").encode()
