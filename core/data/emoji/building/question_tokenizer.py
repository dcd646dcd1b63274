"""A small vocabulary of Gemma's kind: what questions about scenes, and answers to them, are written in.

    python -m diptych.core.data.emoji.building.question_tokenizer

trains it anew with sentencepiece and writes question_tokenizer.model beside the data; the same version gives the same
bytes. As Gemma's it is of pair merges with bytes for what is not there, keeps case and all spaces, marks no first word,
and a newline is a token.
"""

import io

from diptych.core.data.emoji.concepts import QUESTION_TOKENIZER_PATH
from diptych.core.data.emoji.scene_questions import QUESTIONS
from diptych.core.data.emoji.scenes import SEPARATOR
from diptych.core.data.emoji.selection import drawables
from diptych.core.data.emoji.source import EmojiSource

VOCABULARY = 640
CONCEPTS, TIMES = 180, 5
"""The English names of the easiest concepts, and how often the prompts count beside them."""


def train() -> bytes:
    """The vocabulary as a SentencePiece model."""
    import sentencepiece

    chosen = drawables(EmojiSource("train", None, ("en",), keywords=False), CONCEPTS)
    names = [one.concept.names["en"] for one in chosen]
    sentences = [*names, *(SEPARATOR.join(pair) for pair in zip(names, names[1:], strict=False))]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*sentences, *[*QUESTIONS, "1", "2"] * TIMES]),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCABULARY,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        byte_fallback=True,
        character_coverage=1.0,
        user_defined_symbols=["\n"],
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        num_threads=1,
        pad_id=0,
        eos_id=1,
        eos_piece="<eos>",
        bos_id=2,
        bos_piece="<bos>",
        unk_id=3,
        minloglevel=2,
    )
    return model.getvalue()


if __name__ == "__main__":
    QUESTION_TOKENIZER_PATH.write_bytes(train())
    print(QUESTION_TOKENIZER_PATH)
