"""The tokenizer of a vocabulary's file or of a checkpoint's folder, opened once a process."""

from functools import lru_cache
from pathlib import Path

from diptych.core.data.processor.files import read_parts
from diptych.core.data.tokenizers.base import Tokenizer
from diptych.core.data.tokenizers.vocabularies import open_alone, open_vocabulary


@lru_cache(maxsize=8)
def shared_tokenizer(path: str) -> Tokenizer:
    """That of a SentencePiece .model, of a tokenizer.json, or of a folder with one; in a checkpoint's folder with the
    settings that the checkpoint wants.
    """
    folder = Path(path)
    if not folder.is_dir():
        return open_alone(folder)
    try:
        _, tokenizer, _, _ = read_parts(folder)
    except FileNotFoundError:  # a vocabulary without a checkpoint's other files
        return open_vocabulary(folder)
    return tokenizer
