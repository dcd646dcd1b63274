"""A small vocabulary for scenes: what their captions, boxes and prompts are written in.

    python -m diptych.core.data.emoji.building.scene_tokenizer

trains it anew with sentencepiece and writes scene_tokenizer.model beside the data; the same version gives the same
bytes. It learns from the names of the concepts that scenes may show, in their languages. A digit or colon is one token
with the space before it, as numbers are in large vocabularies: with a space of its own before each digit, a decoder
sees the same token wherever it writes one. A vocabulary of 2,048 instead of 256,000 is what lets a decoder train on a
laptop.
"""

from diptych.core.data.emoji.building.build import tokenizer_bytes
from diptych.core.data.emoji.concepts import SCENE_TOKENIZER_PATH
from diptych.core.data.emoji.scenes import SCENE_LANGUAGES
from diptych.core.data.emoji.selection import drawables
from diptych.core.data.emoji.source import EmojiSource

VOCABULARY = 2048
SPACE = "\u2581"  # as SentencePiece writes it
WEIGHTS = ((27, 400), (180, 20))
"""(concepts, times): the names of so many concepts, the easiest, count so often, because small runs show no others."""


def train() -> bytes:
    """The vocabulary as a SentencePiece model."""
    names = []
    for place, chosen in enumerate(drawables(EmojiSource("train", None, SCENE_LANGUAGES, keywords=False))):
        weight = next((weight for easiest, weight in WEIGHTS if place < easiest), 1)
        names += [chosen.concept.names[language] for language in SCENE_LANGUAGES] * weight
    prompts = ["cap:", "aref: a : 0 1 2 3", "gcap: 4 5 6 7 8 9 : a"] * 1000
    return tokenizer_bytes(
        [name.lower() for name in names] + prompts,
        VOCABULARY,
        normalization="identity",
        character_coverage=0.99,
        symbols=[*(space + sign for space in (SPACE, "") for sign in (*map(str, range(10)), ":")), ","],
    )


if __name__ == "__main__":
    SCENE_TOKENIZER_PATH.write_bytes(train())
    print(SCENE_TOKENIZER_PATH)
