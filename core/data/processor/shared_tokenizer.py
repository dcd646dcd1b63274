"""The tokenizer of a vocabulary's file or of a checkpoint's folder, opened once a process."""

from functools import lru_cache
from pathlib import Path

from diptych.core.data.processor.files import read_parts
from diptych.core.data.tokenizers.base import Tokenizer
from diptych.core.data.tokenizers.open import open_tokenizer


@lru_cache(maxsize=8)
def shared_tokenizer(path: str) -> Tokenizer:
    """That of a SentencePiece .model, of a tokenizer.json, or of a checkpoint's folder with the settings that the
    checkpoint wants.
    """
    if Path(path).is_dir():
        _, tokenizer, _, _ = read_parts(Path(path))
        return tokenizer
    return open_tokenizer(path)
