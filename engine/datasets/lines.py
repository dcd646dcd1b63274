"""The embedded lines: pictures of two broken lines, to count where they cross."""

from diptych.core.data.emoji.concepts import QUESTION_TOKENIZER_PATH
from diptych.core.data.lines import LineSource, evaluation_lines
from diptych.core.data.sources.open import LINES
from diptych.core.training.recipe import Data
from diptych.engine.datasets.data_set import DataSet, Sources
from diptych.engine.datasets.own import HELD_OUT, open_captioned
from diptych.engine.datasets.scenes import same_words


def lines(data: Data) -> DataSet:
    """The 128 pictures that big_vision's tutorial learns from; judged on as many of each class as of the others."""

    def sources(seed: int) -> Sources:
        if data.val_data is not None:
            return Sources(train=LineSource(), held_out={HELD_OUT: open_captioned(data.val_data, data)})
        return Sources(train=LineSource(), held_out=evaluation_lines())

    return DataSet(name=LINES, sources=sources, tokenizer=QUESTION_TOKENIZER_PATH, context_length=8, alike=same_words)
