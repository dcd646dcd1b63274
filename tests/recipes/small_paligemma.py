"""A small PaliGemma with random weights and its processor, as a folder."""

from dataclasses import replace
from pathlib import Path

from diptych.core.data.pixels import FixedSize
from diptych.core.data.processor.prompted import PaliGemmaProcessor
from diptych.core.data.tokenizers.open import open_tokenizer
from tests.core.data.tokenizers.small_vocabularies import newline_model
from tests.models.paligemma.test_paligemma import CONFIG, TEXT, random_paligemma


def write_small_paligemma(path: Path) -> None:
    (path / "tokenizer.model").write_bytes(newline_model(("caption", "\u2581cat")))
    vocabulary = open_tokenizer(path / "tokenizer.model")
    processor = PaliGemmaProcessor(pixels=FixedSize(height=8, width=8), tokenizer=vocabulary)
    processor.save_to_preset(path)
    text = replace(TEXT, vocab_size=processor.tokenizer.vocab_size)
    random_paligemma(replace(CONFIG, text=text)).save_to_preset(path, format="diptych")
