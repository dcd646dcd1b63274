"""PaliGemma's preprocessing: pictures, prompts and answers in, the arrays that the model takes out.

A text is `<bos>`, prompt, newline, answer, `<eos>` (Beyer et al. 2024, section 3.2). The newline is cut into tokens by
itself, so that it is never part of another token: behind a prompt that ends with one, "\\n\\n" would be.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from diptych.core.data.captions import MAX_CAPTION_CHARACTERS
from diptych.core.data.examples.naflex import NaFlex
from diptych.core.data.image import ResizeMethod
from diptych.core.data.pixels import FixedSize
from diptych.core.data.processor.files import (
    OWN_FILE,
    PALIGEMMA,
    PATTERNS,
    model_kind,
    own_pixels,
    read_pixels,
    write_bytes,
)
from diptych.core.data.processor.image_processor import SINGLE_PICTURES, ImageProcessor, Item
from diptych.core.data.processor.model_sizes import check_together, sizes_in
from diptych.core.data.records import BadExample
from diptych.core.data.tokenizers.base import Tokenizer
from diptych.core.data.tokenizers.open import open_tokenizer
from diptych.core.data.tokenizers.paligemma import IMAGE, PaliGemmaTokenizer
from diptych.core.data.tokenizers.token_text import text_of
from diptych.core.data.tokenizers.vocabularies import vocabulary_file
from diptych.core.files.fields import read_fields
from diptych.core.files.json_objects import write_config
from diptych.core.weights.hub import preset_folder

SEPARATOR = "\n"
RESIZING: dict[str, ResizeMethod] = {
    "transformers": "bicubic_antialias",
    "big_vision": "bilinear_antialias_float",
}
"""How a picture is squashed, by whose checkpoint it is for. Weights are the same: PaliGemma was trained with several
ways mixed. big_vision's notebooks keep what comes out as it is; its training cuts it to whole levels of grey."""


class PaliGemmaProcessor(ImageProcessor):
    """What turns pictures, prompts and answers into PaliGemma's inputs, in the way it was trained.

    >>> processor = PaliGemmaProcessor.from_preset("hf://google/paligemma2-3b-mix-224")
    >>> batch = processor(images=["cat.jpg"], prompts=["detect cat"])
    >>> answers = model.generate(batch["images"], batch["token_ids"], batch["token_mask"], steps=20)
    >>> processor.read(answers[0])
    '<loc0123><loc0045><loc0987><loc0890> cat'

    Attributes:
        pixels: how pictures are resized and normalised.
        tokenizer: the vocabulary, with its places and codes.
    """

    def __init__(self, *, pixels: FixedSize | NaFlex, tokenizer: Tokenizer):
        super().__init__(pixels=pixels)
        self.tokenizer = tokenizer if isinstance(tokenizer, PaliGemmaTokenizer) else PaliGemmaTokenizer(tokenizer)
        self._separator = self.tokenizer.ids(SEPARATOR)
        self._marks = [self.tokenizer.token(mark) for mark in (self.tokenizer.pad_id, *self.tokenizer.ends)]

    @classmethod
    def from_preset(cls, preset: str | Path, *, revision: str | None = None) -> Self:
        """The processor of a checkpoint; arguments and errors as for `Processor.from_preset`.

        A folder of transformers' or of diptych's files. big_vision's archives come without either: then
        `PaliGemmaProcessor(pixels=FixedSize(height=224, width=224, resize=RESIZING["big_vision"]), tokenizer=...)`.
        """
        path = preset_folder(preset, revision=revision, patterns=PATTERNS)
        folder = path if path.is_dir() else path.parent
        if (kind := model_kind(folder)) not in ("", PALIGEMMA):
            raise ValueError(f"{preset} holds a {kind}, expected a PaliGemma, which answers prompts.")
        own = read_fields(folder / OWN_FILE) if (folder / OWN_FILE).is_file() else None
        pixels = read_pixels(folder) if own is None else own_pixels(own.object("image"))
        file = vocabulary_file(folder)
        tokenizer = PaliGemmaTokenizer(open_tokenizer(file, lower_case=False))
        check_together(str(preset), sizes_in(folder), pixels, tokenizer, None)
        return cls(pixels=pixels, tokenizer=tokenizer)

    def __call__(
        self,
        *,
        images: Any,
        prompts: str | Iterable[str],
        answers: str | Iterable[str] | None = None,
        length: int | None = None,
    ) -> dict[str, np.ndarray]:
        """What a model takes: the arrays of `images` and those of `texts`.

        Raises:
            ValueError: for another number of prompts than of pictures; and what those two raise.
        """
        inputs = self.images(images) | self.texts(prompts, answers, length=length)
        pictures = len(next(iter(inputs.values())))
        if pictures != len(inputs["token_ids"]):
            raise ValueError(
                f"{len(inputs['token_ids'])} prompts are about {pictures} examples of pictures, expected one each. "
                "Several pictures of one example are a list in the list: images=[[first, second]]."
            )
        return inputs

    def images(self, items: Item | Iterable[Item | Sequence[Item]]) -> dict[str, np.ndarray]:
        """Pictures -> {"images": float32 [n, rows, columns, 3]}; where each item is a list of as many pictures,
        [n, pictures, rows, columns, 3], for a model with so many an example. For NaFlex {"patches", "spatial_shapes"}.

        Raises:
            BadExample, TypeError, ValueError: as `ImageProcessor.images`; and for examples with unequal numbers.
        """
        several = not isinstance(items, (*SINGLE_PICTURES, np.ndarray))
        examples: list[Any] = list(items) if several else [items]  # type: ignore[arg-type]
        lists = [isinstance(example, (list, tuple)) for example in examples]
        if not any(lists):
            return super().images(examples if several else items)
        numbers = {len(example) if is_list else 1 for example, is_list in zip(examples, lists, strict=True)}
        if len(numbers) > 1 or not all(lists) or numbers == {0}:
            raise ValueError(
                f"examples have {' and '.join(map(str, sorted(numbers)))} pictures, expected as many in each, and as "
                "many as the model takes. Give those of unequal numbers in batches of their own."
            )
        found = super().images([picture for example in examples for picture in example])
        return {name: x.reshape(len(examples), *numbers, *x.shape[1:]) for name, x in found.items()}

    def texts(
        self, prompts: str | Iterable[str], answers: str | Iterable[str] | None = None, *, length: int | None = None
    ) -> dict[str, np.ndarray]:
        """Prompts, and answers where they are known -> {"token_ids": int32 [n, length], "token_mask": bool, which are
        no padding, "suffix_mask": bool, which are the answer's and its end}.

        The newline behind a prompt is written here, whether the prompt ends with one or not, and so are `<bos>` and
        `<eos>`. Padding is behind the text.

        Args:
            prompts: such as "caption en" or "detect cat ; dog". transformers' "<image>" in front is left out: a model
                here is given pictures apart from texts.
            answers: one for each prompt, without a space in front; None for prompts that are to be answered.
            length: tokens of each; None for those of the longest.

        Raises:
            BadExample: for a text that is longer than `length`, which cutting would leave without its end.
            TypeError, ValueError: for what is no text, for another number of answers, and for names of tokens that the
                processor writes itself.
        """
        asked = [prompts] if isinstance(prompts, str) else list(prompts)
        told: list[Any] = [None] * len(asked)
        if answers is not None:
            told = [answers] if isinstance(answers, str) else list(answers)
        if len(told) != len(asked):
            raise ValueError(f"{len(told)} answers to {len(asked)} prompts, expected one each.")
        rows = [self._row(number, *pair) for number, pair in enumerate(zip(asked, told, strict=True))]
        longest = max((len(prefix) + len(suffix) for prefix, suffix in rows), default=1)
        columns = longest if length is None else length
        found = {
            "token_ids": np.full((len(rows), columns), self.tokenizer.pad_id, np.int32),
            "token_mask": np.zeros((len(rows), columns), np.bool_),
            "suffix_mask": np.zeros((len(rows), columns), np.bool_),
        }
        for row, (prefix, suffix) in enumerate(rows):
            end = len(prefix) + len(suffix)
            if end > columns:
                raise BadExample(
                    "text_too_long", f"text {row} has {len(prefix)} and {len(suffix)} tokens of prompt and answer, and "
                    f"length is {columns}. Give a longer length, or leave it out."
                )  # fmt: skip
            found["token_ids"][row, :end] = prefix + suffix
            found["token_mask"][row, :end] = True
            found["suffix_mask"][row, len(prefix) : end] = True
        return found

    def read(self, ids: Iterable[int]) -> str:
        """The text of an answer's tokens up to its end, places and codes as they are written, lines kept."""
        return text_of(self.tokenizer, ids, single_spaces=False).strip()

    def save_to_preset(self, folder: str | Path, format: str = "diptych") -> None:
        """Writes processor.json and the vocabulary as it is; raises ValueError for another format than "diptych"."""
        if format != "diptych":
            raise ValueError(f"format must be diptych, got {format!r}.")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / self.tokenizer.file_name, self.tokenizer.data)
        write_config(folder / OWN_FILE, self._settings())

    def fingerprint(self) -> str:
        """A hash of everything that decides what a model is given: equal hashes give equal arrays."""
        settings = json.dumps(self._settings(), sort_keys=True)
        return hashlib.sha256(f"{settings} {self.tokenizer.fingerprint()}".encode()).hexdigest()

    def _settings(self) -> dict[str, Any]:
        return {"image": self.pixels.settings(), "prompts": {"tokenizer": self.tokenizer.file_name}}

    def _row(self, number: int, prompt: Any, answer: Any) -> tuple[list[int], list[int]]:
        """The ids of a prompt with what stands around it, and of an answer with its end; none without an answer."""
        prompt, tokenizer = self._checked(f"prompt {number}", prompt), self.tokenizer
        prefix = [tokenizer.ends[0], *tokenizer.ids(prompt.rstrip(SEPARATOR)), *self._separator]
        if answer is None:
            return prefix, []
        return prefix, [*tokenizer.ids(self._checked(f"answer {number}", answer)), tokenizer.eos_id]

    def _checked(self, name: str, text: Any) -> str:
        if not isinstance(text, str):
            raise TypeError(f"{name} is a {type(text).__name__}, expected a str: decode bytes as UTF-8.")
        if len(text) > MAX_CAPTION_CHARACTERS:
            raise BadExample("text_too_long", f"{name} has {len(text)} characters, at most {MAX_CAPTION_CHARACTERS}")
        while text.startswith(IMAGE):
            text = text.removeprefix(IMAGE)
        for token in (IMAGE, *self._marks):
            if token in text:
                raise ValueError(
                    f"{name} contains {token}, a token that stands for no text: pictures are given apart, and what "
                    f"begins, ends and pads texts is written by the processor. Leave it out of {text[:60]!r}."
                )
        return text.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair cannot be tokenized
