"""The tokenizer of a vocabulary's file."""

import re
from pathlib import Path

from diptych.core.data.tokenizers.base import Tokenizer
from diptych.core.data.tokenizers.clip_bpe import ClipTokenizer
from diptych.core.data.tokenizers.hugging_face import HuggingFaceTokenizer
from diptych.core.data.tokenizers.sentencepiece import SentencePieceTokenizer
from diptych.core.files.fields import MAX_TOKENIZER_BYTES, read_limited

_CLIP_MARK = re.compile(rb'"end_of_word_suffix"\s*:\s*"</w>"')  # only CLIP's tokenizer.json has it


def open_tokenizer(
    path: str | Path, *, pad_id: int | None = None, lower_case: bool = True, strip_punctuation: bool = False
) -> Tokenizer:
    """Open a SentencePiece `.model`, a Hugging Face `tokenizer.json` (which needs `pip install tokenizers`), or CLIP's
    vocabulary.

    CLIP's comes as a tokenizer.json, as a vocab.json beside a merges.txt, or as bpe_simple_vocab_16e6.txt.gz.
    `pad_id` overrides the file's own (SigLIP 1 pads with the end-of-text id 1); a file without one pads with
    end-of-text. CLIP's has its own cleaning, whatever `lower_case` and `strip_punctuation` say; what a checkpoint wants
    for others is `vocabularies.open_vocabulary`'s to find out.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no tokenizer file at {path}: give a SentencePiece .model or a tokenizer.json")
    is_json = path.suffix == ".json"
    expected = {".json": "JSON", ".gz": "gzip-compressed", ".txt": "gzip-compressed"}
    data = read_limited(path, MAX_TOKENIZER_BYTES, expected.get(path.suffix, "a SentencePiece model"))
    if path.name == "vocab.json" or path.suffix in (".txt", ".gz") or (is_json and _CLIP_MARK.search(data)):
        return ClipTokenizer.open(path, pad_id=pad_id)
    tokenizer: Tokenizer = (HuggingFaceTokenizer if is_json else SentencePieceTokenizer)(data, pad_id=pad_id)
    tokenizer.lower_case, tokenizer.strip_punctuation = lower_case, strip_punctuation
    return tokenizer
