"""An encoder is one model and the processor that prepares what this model takes."""

from dataclasses import replace

import pytest

from diptych.core.data.emoji import TOKENIZER_PATH
from diptych.core.data.pixels import FixedSize
from diptych.core.data.processor.processor import Processor
from diptych.core.data.tokenizers.open import open_tokenizer
from diptych.engine.embedding.encoder import Encoder
from diptych.models import SigLIP
from tests.models.examples import TINY

VOCABULARY = open_tokenizer(TOKENIZER_PATH)
CONFIG = replace(TINY, text=replace(TINY.text, vocab_size=VOCABULARY.vocab_size))


def processor(side: int = 10, context_length: int = 6) -> Processor:
    return Processor(pixels=FixedSize(height=side, width=side), tokenizer=VOCABULARY, context_length=context_length)


def test_a_processor_of_another_model_is_refused_with_all_that_differs():
    model = SigLIP(CONFIG)
    assert Encoder(model, processor()).embed_texts(["a red fox"]).shape == (1, 16)
    with pytest.raises(ValueError, match="prepared as 12 x 12 pixels, the model takes 10 x 10 pixels"):
        Encoder(model, processor(side=12))
    smaller = SigLIP(replace(CONFIG, text=replace(CONFIG.text, vocab_size=VOCABULARY.vocab_size - 1)))
    with pytest.raises(ValueError, match=r"table 7,999 rows; texts are prepared as 7 ids, the model takes 6"):
        Encoder(smaller, processor(context_length=7))
