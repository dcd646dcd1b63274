"""Targets of the decoder: a picture's caption, where a thing is, and what is in a box.

LocCa (Wan et al. 2024, arXiv 2403.19596) writes the three tasks as text, each behind a prefix that names it:

    caption     Cap: {caption}
    referring   ARef: {region's text} : {box}
    grounded    GCap: {box} : {region's text}

The loss counts everything after the prefix, so a referring expression is proposed and then located, a box proposed and
then described. SigLIP 2 (Tschannen et al. 2025, arXiv 2502.14786, section 2.2) trains on all three and predicts the
caption in parallel half of the time. Neither says how a sequence ends, how long it may be or how corners are ordered:
those are settings here, with our defaults.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from diptych.core.data.batch import ANY, ArrayField
from diptych.core.data.captions import clean_caption
from diptych.core.data.processor.shared_tokenizer import shared_tokenizer
from diptych.core.data.records import UNKNOWN_LANGUAGE, Box, Caption, Region
from diptych.core.data.regions import BINS, BoxOrder, box_text, check_places, parse_box
from diptych.core.data.tokenizers.base import Tokenizer
from diptych.core.data.tokenizers.token_text import text_of

TASKS = ("caption", "referring", "grounded")
# fmt: off
TARGET_FIELDS = {
    "target_tokens": ArrayField(
        np.int32, (("batch", 3, "target_length"),), (0, ANY),
        "what the decoder writes as caption, referring expression and grounded caption: prefix, target, end-of-text, "
        "padding",
    ),
    "target_weights": ArrayField(
        np.uint8, (("batch", 3, "target_length"),), (0, 1),
        "1 where predicting the target token counts: not in prefix and padding, nowhere in a task the example lacks",
    ),
    "parallel": ArrayField(
        np.bool_, (("batch",),), (False, True),
        "whether the example's caption is predicted in parallel instead of from left to right",
    ),
}
# fmt: on
Question = Literal["caption", "find", "describe"]

_LONGEST_REMEMBERED = 256  # characters
_TASK_OF: dict[str, int] = {"caption": 0, "find": 1, "describe": 2}


@dataclass(frozen=True, kw_only=True)
class CaptionTargets:
    """How sequences for the decoder are made; it holds settings only, so it travels to worker processes.

    Attributes:
        tokenizer_path: a SentencePiece .model, a tokenizer.json of that kind, or a checkpoint's folder with one.
        context_length: T, tokens of a sequence, prefix and end-of-text included.
        parallel_probability: of predicting the caption in parallel.
        bins, order: see `regions.box_text`.
        prompts: the prefixes of caption, referring and grounded.
        separator: between a region's text and its box.

    Each part of a sequence is tokenised by itself, so that a prompt is exactly the beginning of what was learned.
    """

    declared: ClassVar[Mapping[str, ArrayField]] = TARGET_FIELDS
    tokenizer_path: str | Path
    context_length: int = 64
    parallel_probability: float = 0.5
    bins: int = BINS
    order: BoxOrder = "yxyx"
    prompts: tuple[str, str, str] = ("Cap: ", "ARef: ", "GCap: ")
    separator: str = " : "

    def __post_init__(self):
        check_places(self.bins, self.order)
        if not 0 <= self.parallel_probability <= 1:
            raise ValueError(f"parallel_probability must lie in [0, 1], got {self.parallel_probability}")
        if self.context_length < 2:
            raise ValueError(f"context_length must be 2 or more, got {self.context_length}")
        if len(self.prompts) != len(TASKS):
            raise ValueError(f"prompts must be one each for {', '.join(TASKS)}, got {self.prompts}")

    def __call__(self, caption: Caption, regions: Sequence[Region], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """The sequences of one example.

        One region is drawn for each of the tasks referring and grounded, evenly among those in the caption's language,
        or among all where none is. A task without a region, or whose box does not fit in whole, has weights 0. A text
        that is too long is cut before the end-of-text.

        Returns:
            target_tokens: int32 [3, T], prefix, target, end-of-text, padding; not shifted.
            target_weights: uint8 [3, T], 1 from the first token of the target to the end-of-text.
            parallel: bool [], whether the caption is to be predicted in parallel.

        Raises:
            BadExample: the caption or a region's text is none.
            ValueError: a prefix fills the whole sequence, or the vocabulary lacks digits.
        """
        share_parallel, share_referring, share_grounded = rng.random(3)
        tokens = np.full((len(TASKS), self.context_length), self.tokenizer.pad_id, np.int32)
        weights = np.zeros((len(TASKS), self.context_length), np.uint8)
        candidates = _in_language(regions, caption.language)
        targets = (
            self._text(caption.text),
            self._referring(_pick(candidates, share_referring)),
            self._grounded(_pick(candidates, share_grounded)),
        )
        for task, target in enumerate(targets):
            prefix = self._prefix(task)
            begin = len(prefix)
            end = begin + len((target or ())[: self._room(task)])
            tokens[task, :begin] = prefix
            tokens[task, begin:end] = (target or ())[: end - begin]
            tokens[task, end] = self.tokenizer.eos_id
            if target is not None:
                weights[task, begin : end + 1] = 1
        parallel = np.array(share_parallel < self.parallel_probability, np.bool_)
        return {"target_tokens": tokens, "target_weights": weights, "parallel": parallel}

    def check(self, *, boxes: bool) -> None:
        """Raises ValueError for a length that a prefix fills and, where there are to be boxes, for a vocabulary that
        cannot spell them.
        """
        for task in range(len(TASKS)):
            self._prefix(task)
        if boxes:
            _check_numbers(str(self.tokenizer_path))

    def prompt(self, question: Question, *, text: str = "", box: Box = (0.0, 0.0, 1.0, 1.0)) -> np.ndarray:
        """How a sequence begins that the decoder is to finish, int32 [length].

        Args:
            question: "caption"; "find", which asks for the box of `text`; "describe", which asks for the text of `box`.
            text: for "find"; cut where it would leave no room for a box.
        """
        task = _task_of(question)
        prefix = self._prefix(task)
        if question == "find":
            widest = len(self._box((0.25, 0.5, 0.75, 1.0))) + 4  # numbers take a token more or less
            separator = self._tokens(self.separator)
            prefix += self._text(text)[: max(0, self._room(task) - len(separator) - widest)] + separator
        elif question == "describe":
            prefix += self._box(box) + self._tokens(self.separator)
        return np.array(prefix, np.int32)

    def read(self, question: Question, ids: Iterable[int]) -> str | Box | None:
        """What the decoder answered: for "find" a box (ymin, xmin, ymax, xmax), or None where it wrote none; else a
        text.

        Args:
            ids: the tokens that it wrote after `prompt(question)`; what follows an end-of-text is left out.
        """
        _task_of(question)
        text = text_of(self.tokenizer, ids)
        return parse_box(text, bins=self.bins, order=self.order) if question == "find" else text

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of `tokenizer_path`, opened once a process."""
        return shared_tokenizer(str(self.tokenizer_path))

    def fingerprint(self) -> str:
        """A hash of everything that decides what sequences look like."""
        settings = (
            self.context_length,
            self.parallel_probability,
            self.bins,
            self.order,
            self.prompts,
            self.separator,
        )
        return hashlib.sha256(f"{settings} {self.tokenizer.fingerprint()}".encode()).hexdigest()

    def _referring(self, region: Region | None) -> tuple[int, ...] | None:
        if region is None:
            return None
        text = self._text(region.text)
        target = text + self._tokens(self.separator) + self._box(region.box)
        return target if text and len(target) <= self._room(1) else None

    def _grounded(self, region: Region | None) -> tuple[int, ...] | None:
        if region is None:
            return None
        text = self._text(region.text)
        opening = self._box(region.box) + self._tokens(self.separator)
        return opening + text if text and len(opening) < self._room(2) else None

    def _room(self, task: int) -> int:
        """Tokens between the prefix and the end-of-text."""
        return self.context_length - 1 - len(self._prefix(task))

    def _prefix(self, task: int) -> tuple[int, ...]:
        prefix = self._tokens(self.prompts[task])
        if len(prefix) + 2 > self.context_length:
            raise ValueError(
                f"context_length is {self.context_length}, expected at least {len(prefix) + 2}: the prefix "
                f"{self.prompts[task]!r} has {len(prefix)} tokens, and a target and an end-of-text follow"
            )
        return prefix

    def _text(self, text: str) -> tuple[int, ...]:
        if isinstance(text, str) and len(text) <= _LONGEST_REMEMBERED:
            return _remembered_text(str(self.tokenizer_path), self.context_length, text)
        return _ids(self.tokenizer, self.context_length, clean_caption(text))

    def _tokens(self, text: str) -> tuple[int, ...]:
        """Of our own words, which need no cleaning: a space at the end of a prefix stays."""
        return _remembered_words(str(self.tokenizer_path), self.context_length, text)

    def _box(self, box: Box) -> tuple[int, ...]:
        _check_numbers(str(self.tokenizer_path))
        return _ids(self.tokenizer, self.context_length, box_text(box, bins=self.bins, order=self.order))


def _in_language(regions: Sequence[Region], language: str) -> Sequence[Region]:
    """A phrase in another language than the caption's would ask the decoder to guess which."""
    same = [region for region in regions if region.language in (language, UNKNOWN_LANGUAGE)]
    return same or regions


def _pick(regions: Sequence[Region], share: float) -> Region | None:
    return regions[int(share * len(regions))] if regions else None


def _task_of(question: str) -> int:
    if question not in _TASK_OF:
        raise ValueError(f"the decoder can be asked to {', '.join(_TASK_OF)}, got {question!r}")
    return _TASK_OF[question]


def _ids(tokenizer: Tokenizer, context_length: int, text: str) -> tuple[int, ...]:
    """The ids of a text alone, of which more than `context_length` are of no use: no marks, no padding."""
    opening = 0 if tokenizer.bos_id is None else 1
    ids = tokenizer.encode(text, context_length + opening + 2)[opening:].tolist()
    return tuple(ids[: ids.index(tokenizer.eos_id)])


@lru_cache(maxsize=131_072)
def _remembered_text(tokenizer_path: str, context_length: int, text: str) -> tuple[int, ...]:
    return _ids(shared_tokenizer(tokenizer_path), context_length, clean_caption(text))


@lru_cache(maxsize=64)
def _remembered_words(tokenizer_path: str, context_length: int, text: str) -> tuple[int, ...]:
    return _ids(shared_tokenizer(tokenizer_path), context_length, text)


@lru_cache(maxsize=8)
def _check_numbers(tokenizer_path: str) -> None:
    """A small vocabulary may lack digits, which its tokenizer then replaces, all by the same token."""
    tokenizer, digits = shared_tokenizer(tokenizer_path), "0 1 2 3 4 5 6 7 8 9"
    read = text_of(tokenizer, tokenizer.encode(digits, 64))
    if read != digits:
        raise ValueError(
            f"{tokenizer_path} cannot spell boxes: {digits!r} becomes {read!r}. Take a vocabulary with digits."
        )
