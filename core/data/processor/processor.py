"""A checkpoint's own preprocessing: pictures and texts in, the arrays its towers take out."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diptych.core.data.captions import MAX_CAPTION_CHARACTERS, clean_caption
from diptych.core.data.examples.naflex import NaFlex
from diptych.core.data.pixels import FixedSize
from diptych.core.data.processor.files import PATTERNS, WRITERS, own_settings, read_parts
from diptych.core.data.processor.image_processor import ImageProcessor
from diptych.core.data.processor.input_checks import check_patches, check_token_ids
from diptych.core.data.processor.model_sizes import check_together, sizes_in
from diptych.core.data.records import BadExample
from diptych.core.data.tokenizers.base import Tokenizer
from diptych.core.weights.hub import preset_folder


class Processor(ImageProcessor):
    """What turns pictures and texts into a model's inputs, in the way the model was trained.

    Attributes:
        pixels: how pictures are resized and normalised.
        tokenizer, context_length: how texts become ids.
        clean_captions: whether texts are first cleaned as training cleans captions (`captions.clean_caption`);
            checkpoints that were trained elsewhere are given texts as they are.
        table_size: the ids that the model has a row for, from 0 on; ids beyond are refused.
    """

    def __init__(
        self,
        *,
        pixels: FixedSize | NaFlex,
        tokenizer: Tokenizer,
        context_length: int,
        clean_captions: bool = True,
        table_size: int | None = None,
    ):
        if context_length < 2:
            raise ValueError(f"context_length must be 2 or more, got {context_length}.")
        super().__init__(pixels=pixels)
        self.tokenizer = tokenizer
        self.context_length = context_length
        self.clean_captions = clean_captions
        self.table_size = min(tokenizer.vocab_size, table_size or tokenizer.vocab_size)

    @classmethod
    def from_preset(cls, preset: str | Path, *, revision: str | None = None) -> "Processor":
        """The processor of a checkpoint.

        Args:
            preset: a folder with diptych's, transformers' or open_clip's files, "hf://owner/name", or the name of a
                model that diptych ships.
            revision: a branch, tag or commit of the hub's repository.

        Raises:
            FileNotFoundError: for what is not there, naming the files that were looked for.
            WeightFileError: a ValueError, for damaged files and settings that no model here could use.
            ValueError: for files that are not of the model that the same folder describes, saying what differs.
        """
        path = preset_folder(preset, revision=revision, patterns=PATTERNS)
        folder = path if path.is_dir() else path.parent
        pixels, tokenizer, context_length, clean_captions = read_parts(folder)
        sizes = sizes_in(folder)
        check_together(str(preset), sizes, pixels, tokenizer, context_length)
        return cls(
            pixels=pixels,
            tokenizer=tokenizer,
            context_length=context_length,
            clean_captions=clean_captions,
            table_size=sizes.vocab_size,
        )

    def __call__(self, *, images: Any = None, texts: Any = None) -> dict[str, np.ndarray]:
        """What a model takes: the arrays of `images` and those of `texts`."""
        inputs = {} if images is None else self.images(images)
        return inputs if texts is None else inputs | self.texts(texts)

    def example(self, example: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """What a model takes of one example, {"image": a picture, "text": a text} or one of the two, without the axis
        of a batch: for whatever reads data one by one. It can be pickled to workers. docs/keras.md has it with
        `tf.data`, torch's `DataLoader` and grain.
        """
        return {name: array[0] for name, array in self.batch([example]).items()}

    def batch(self, examples: Iterable[Mapping[str, Any]]) -> dict[str, np.ndarray]:
        """What a model takes of a batch of examples as for `example`.

        Raises:
            ValueError: for examples that have neither image nor text, or not all the same.
        """
        given = list(examples)
        names = {name for name in ("image", "text") if any(name in each for each in given)}
        if not names or not all(names <= each.keys() for each in given):
            raise ValueError(
                f'Got examples with {sorted({name for each in given for name in each})}, expected "image", "text" or '
                "both in each."
            )
        columns = {f"{name}s": [each[name] for each in given] for name in names}
        return self(**columns)

    def texts(self, texts: str | Iterable[str]) -> dict[str, np.ndarray]:
        """Texts -> {"token_ids": int32 [n, context_length]}: the text, end-of-text, padding on the right; no mask.

        Raises:
            BadExample: for texts that hold no readable character, or too many, where captions are cleaned; and for
                tokens that the model has no row for.
            TypeError: for what is no text.
        """
        given = [texts] if isinstance(texts, str) else list(texts)
        ids = np.empty((len(given), self.context_length), np.int32)
        for place, text in enumerate(given):
            if not isinstance(text, str):
                raise TypeError(f"text {place} is a {type(text).__name__}, expected a str: decode bytes as UTF-8.")
            ids[place] = self.tokenizer.encode(self._cleaned(text), self.context_length)
            if ids[place].max() >= self.table_size:
                raise BadExample(
                    "caption_beyond_table", f"token id {ids[place].max()}; the model has rows for {self.table_size:,}"
                )
        return {"token_ids": ids}

    def check(self, inputs: Mapping[str, Any]) -> None:
        """Refuses a model's inputs that cannot be right, and warns of such as look wrong; see `input_checks`."""
        if "images" in inputs:
            self.check_images(inputs["images"])
        if "patches" in inputs:
            if not isinstance(self.pixels, NaFlex):
                raise ValueError("The inputs have patches, expected images: this is no NaFlex model.")
            check_patches(inputs["patches"], inputs.get("spatial_shapes"), self.pixels)
        if "token_ids" in inputs:
            self.check_token_ids(inputs["token_ids"])

    def check_token_ids(self, token_ids: Any) -> np.ndarray:
        """The array itself, if it is what `texts` returns: int32 [n, context_length], padded on the right."""
        return check_token_ids(token_ids, self.tokenizer, self.context_length, self.table_size)

    def fingerprint(self) -> str:
        """A hash of everything that decides what a model is given: equal hashes give equal arrays."""
        settings = own_settings(self.pixels, self.tokenizer, self.context_length, self.clean_captions)
        used = f"{json.dumps(settings, sort_keys=True)} {self.tokenizer.fingerprint()}"
        used += "" if self.decode == "exact" else f" {self.decode}"
        return hashlib.sha256(used.encode()).hexdigest()

    def save_to_preset(self, folder: str | Path, format: str = "diptych") -> None:
        """Writes the processor into a checkpoint's folder, which is made if need be.

        Args:
            folder: where config.json and the weights are, or will be; those are `save_to_preset`'s of the model.
            format: "diptych" for processor.json and the vocabulary; "transformers" for preprocessor_config.json and
                tokenizer files that AutoProcessor, AutoImageProcessor and AutoTokenizer read, with every field spelt
                out. There, captions are not cleaned beyond what the vocabulary wants.

        Raises:
            ValueError: for another format, and for what the format cannot express.
        """
        if format not in WRITERS:
            raise ValueError(f"format must be one of {', '.join(WRITERS)}, got {format!r}.")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        WRITERS[format](folder, (self.pixels, self.tokenizer, self.context_length, self.clean_captions))

    def _cleaned(self, text: str) -> str:
        if self.clean_captions:
            return clean_caption(text)
        if len(text) > MAX_CAPTION_CHARACTERS:
            raise BadExample(
                "caption_too_long", f"{len(text)} characters, at most {MAX_CAPTION_CHARACTERS}: cut the text"
            )
        return text.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair cannot be tokenized
