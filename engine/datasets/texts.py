"""Texts to learn a language from: documents, of which some are held out, cut into tokens and windows."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from diptych.core.data.sources.keys import HASH_BITS, key_hash
from diptych.core.data.texts.documents import EMBEDDED, EMBEDDED_VOCABULARY, Documents
from diptych.core.data.texts.token_store import TokenStore, store_tokens
from diptych.core.data.texts.windows import Windows
from diptych.core.data.tokenizers.bpe_training import train_gpt_tokenizer
from diptych.core.data.tokenizers.gpt_bpe import GptTokenizer
from diptych.core.files.atomic import replacing_folder
from diptych.core.files.cache_folder import cache_folder
from diptych.core.training.recipe import Data
from diptych.core.training.term_options import Language
from diptych.engine.datasets.data_set import DataSet, Sources

TRAIN, HELD_OUT = "train", "Held-out documents"
EMBEDDED_HELD_OUT = "persuasion"
"""The novel of the embedded ones that is judged on."""
USUAL_MERGES = 8_000
VOCABULARY_CHARACTERS = 1 << 26
"""Of the first documents, from which a vocabulary is learned."""


@dataclass(frozen=True, kw_only=True)
class TextDataSet(DataSet):
    """Documents as tokens.

    Attributes:
        words: the tokenizer; None of a plan without data.
        learned: the tokens that are trained on; None without data.
        judged: those that are judged on, by the name of the set, that of the headline first.
    """

    words: GptTokenizer | None = None
    learned: TokenStore | None = None
    judged: Mapping[str, TokenStore] = field(default_factory=dict)

    def describe(self, sources: Sources) -> str:
        """One line for people."""
        train = sources.train
        if not isinstance(train, Windows):
            return super().describe(sources)
        rest = f", and {train.rest:,} tokens at the end fill none" if train.rest else ""
        sets = ", ".join(f"{len(store):,} of {name.lower()}" for name, store in self.judged.items())
        return (
            f"Data: {self.name}, {len(train.store):,} tokens to train on, which are {len(train):,} windows of "
            f"{train.length:,}{rest}; judged on {sets}"
        )


def texts(data: Data, options: Language, *, context_length: int) -> TextDataSet:
    """What `data.train_data` names, judged on `data.val_data`, or on a fraction of the documents that is held out by
    key; of the embedded novels on one of them.

    Documents are cut into tokens at once, as the vocabulary may have to be learned from them; what an earlier run has
    cut is in the cache.

    Raises:
        FileNotFoundError, ValueError: for texts or a vocabulary that are not there, and for too little text.
        ImportError: for GPT-1's own way of cutting words without ftfy or spaCy.
        TooManySkipped: more documents are bad than may be.
    """
    if not data.train_data:
        given = None if data.tokenizer is None else GptTokenizer.open(data.tokenizer, way=options.way)
        folder = data.tokenizer or Path()
        return TextDataSet(name="no texts", sources=_nothing_opened, tokenizer=folder, words=given)
    documents = Documents(data.train_data, data.reading)
    part = partial(_part, data)
    folder, words = _vocabulary(documents, data, options, part)
    cut = partial(store_tokens, tokenizer=words, folder=cache_folder() / "tokens", say=_say)
    stores = cut(documents, parts=part)
    others = {HELD_OUT: data.val_data} if data.val_data is not None else {}
    judged = {HELD_OUT: stores[HELD_OUT]} if HELD_OUT in stores else {}
    for name, spec in (others | {spec: spec for spec in options.eval_data}).items():
        found = cut(Documents(spec, data.reading), parts=lambda key: TRAIN)
        judged |= {name: found[TRAIN]} if found else {}
    if HELD_OUT not in judged:
        raise ValueError(
            f"No document of {data.val_data or data.train_data} is held out, and a language model is judged on what it "
            "has not seen. Give --val-data, or raise --val-fraction."
        )
    if TRAIN not in stores:
        raise ValueError(f"No document of {data.train_data} is left to train on. Lower --val-fraction, or give more.")

    def sources(seed: int) -> Sources:
        held_out = {name: Windows(store, min(context_length, len(store))) for name, store in judged.items()}
        return Sources(train=Windows(stores[TRAIN], context_length, documents.ledger), held_out=held_out)

    name = "Jane Austen's novels" if data.train_data == EMBEDDED else data.train_data
    return TextDataSet(name=name, sources=sources, tokenizer=folder, words=words, learned=stores[TRAIN], judged=judged)


def _part(data: Data, key: str) -> str:
    """To which part a document belongs."""
    if data.val_data is not None:
        return TRAIN
    if data.train_data == EMBEDDED:
        return HELD_OUT if key == EMBEDDED_HELD_OUT else TRAIN
    return HELD_OUT if key_hash(key) / 2**HASH_BITS < data.val_fraction else TRAIN


def _vocabulary(documents: Documents, data: Data, options: Language, part) -> tuple[Path, GptTokenizer]:
    """The vocabulary that a recipe names, that of the embedded novels, or one that is learned from what is trained on;
    and its folder.
    """
    if data.tokenizer is not None:
        return data.tokenizer, GptTokenizer.open(data.tokenizer, way=options.way)
    if data.train_data == EMBEDDED and options.merges is None and options.way in (None, "transformers"):
        return EMBEDDED_VOCABULARY, GptTokenizer.open(EMBEDDED_VOCABULARY)
    way, merges = options.way or "paper", options.merges or USUAL_MERGES
    hashed = hashlib.sha256(f"{way} {merges} ".encode())
    for text in _beginning(documents, part):
        hashed.update(f"{len(text)} {text}".encode("utf-8", "surrogatepass"))
    folder = cache_folder() / "vocabularies" / hashed.hexdigest()
    if not (folder / "merges.txt").is_file():
        _say(f"Vocabulary: {merges:,} merges are learned from the texts (--tokenizer gives another)")
        learned = train_gpt_tokenizer(_beginning(documents, part), merges=merges, way=way)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with replacing_folder(folder) as temporary:
            learned.save(temporary)
    return folder, GptTokenizer.open(folder)


def _beginning(documents: Documents, part) -> Iterator[str]:
    """The texts of the first documents that are trained on."""
    left = VOCABULARY_CHARACTERS
    for document in documents:
        if part(document.key) == TRAIN and left > 0:
            yield document.text[:left]
            left -= len(document.text)


def _say(line: str) -> None:
    print(line, flush=True)


def _nothing_opened(seed: int) -> Sources:
    raise ValueError("A plan without data opens none: give --train-data.")
