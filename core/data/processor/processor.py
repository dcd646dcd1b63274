"""A checkpoint's own preprocessing: pictures and texts in, the arrays its towers take out."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from diptych.core.data.captions import MAX_CAPTION_CHARACTERS, clean_caption
from diptych.core.data.examples.naflex import NaFlex
from diptych.core.data.image import decode, rgb_pixels
from diptych.core.data.pixels import FixedSize
from diptych.core.data.processor.files import PATTERNS, WRITERS, own_settings, read_parts
from diptych.core.data.processor.input_checks import check_images, check_patches, check_token_ids
from diptych.core.data.processor.model_sizes import check_together, sizes_in
from diptych.core.data.records import BadExample
from diptych.core.data.sources.files import MAX_IMAGE_FILE_BYTES, read_regular_file
from diptych.core.data.tokenizers.base import Tokenizer
from diptych.core.weights.hub import preset_folder

Item: TypeAlias = bytes | str | Path | Image.Image | np.ndarray
"""A picture: its encoded bytes, its path, as Pillow has it, or uint8 [height, width, 3]."""

_ONE_PICTURE = (bytes, bytearray, memoryview, str, Path, Image.Image)


class Processor:
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
        self.pixels = pixels
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

    def images(self, items: Item | Iterable[Item]) -> dict[str, np.ndarray]:
        """Pictures -> {"images": float32 [n, rows, columns, 3]}, for NaFlex {"patches", "spatial_shapes"}.

        A picture is its encoded bytes, a path, a Pillow image, or a uint8 array [height, width, 3], RGB; one alone is a
        batch of one. Transparency is laid on white, 16-bit grey keeps its range, the EXIF orientation is applied (which
        transformers does not do).

        Raises:
            BadExample: for a file that is missing or no readable picture, which it names.
            TypeError, ValueError: for what is no picture at all, and for arrays of other shapes and dtypes, saying what
            to give.
        """
        single = isinstance(items, _ONE_PICTURE) or (isinstance(items, np.ndarray) and items.ndim < 4)
        pictures: list[Any] = [items] if single else [*items]  # type: ignore[misc]
        return self.pixels.prepare([_pixels(item, f"image {place}") for place, item in enumerate(pictures)])

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

    @property
    def input_size(self) -> tuple[int, int] | None:
        """(rows, columns) of the images that the model takes; None for NaFlex, which takes any."""
        return self.pixels.input_size

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

    def check_images(self, images: Any) -> np.ndarray:
        """The array itself, if it is what `images` returns: float32 [n, rows, columns, 3] in the model's range."""
        if isinstance(self.pixels, NaFlex):
            raise ValueError("The inputs have images, expected patches and spatial_shapes: this is a NaFlex model.")
        return check_images(images, self.pixels)

    def check_token_ids(self, token_ids: Any) -> np.ndarray:
        """The array itself, if it is what `texts` returns: int32 [n, context_length], padded on the right."""
        return check_token_ids(token_ids, self.tokenizer, self.context_length, self.table_size)

    def fingerprint(self) -> str:
        """A hash of everything that decides what a model is given: equal hashes give equal arrays."""
        settings = own_settings(self.pixels, self.tokenizer, self.context_length, self.clean_captions)
        return hashlib.sha256(
            f"{json.dumps(settings, sort_keys=True)} {self.tokenizer.fingerprint()}".encode()
        ).hexdigest()

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


def _pixels(item: Any, name: str) -> np.ndarray:
    """uint8 [height, width, 3] of one picture."""
    if isinstance(item, (bytes, bytearray, memoryview)):
        return _decoded(bytes(item), name)
    if isinstance(item, (str, Path)):
        return _decoded(read_regular_file(str(item), kind="image", max_bytes=MAX_IMAGE_FILE_BYTES), str(item))
    if isinstance(item, Image.Image):
        return rgb_pixels(item)
    if not isinstance(item, np.ndarray):
        raise TypeError(
            f"{name} is a {type(item).__name__}, expected encoded bytes, a path, a Pillow image or a uint8 array "
            "[height, width, 3]."
        )
    if item.dtype.kind == "f":
        raise ValueError(f"{name} is {item.dtype}, expected uint8 0..255. {_advice_on_floats(item)}")
    if item.dtype != np.uint8:
        raise ValueError(f"{name} is {item.dtype}, expected uint8 0..255.")
    if item.ndim != 3 or item.shape[2] != 3 or 0 in item.shape:
        first = item.ndim == 3 and item.shape[0] == 3
        advice = (
            "Move the channels to the end: array.transpose(1, 2, 0)."
            if first
            else "Pillow converts: Image.fromarray(array)."
        )
        raise ValueError(f"{name} has the shape {list(item.shape)}, expected [height, width, 3], RGB. {advice}")
    return item


def _decoded(data: bytes, name: str) -> np.ndarray:
    try:
        return decode(data)
    except BadExample as error:
        raise BadExample(error.reason, f"{name}: {error.detail}" if error.detail else name) from None


def _advice_on_floats(array: np.ndarray) -> str:
    """What to do with a picture of floats, by the range that its values seem to be in."""
    low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
    if low < 0:
        undo = "((array + 1) * 127.5).round().astype(np.uint8)"
        how = f"these look like -1..1: what a model takes is not prepared again; undo it by {undo}"
    elif high <= 1:
        how = "these look like 0..1: (array * 255).round().astype(np.uint8)"
    else:
        how = "these look like 0..255: array.round().astype(np.uint8)"
    return f"Its values lie between {low:.4g} and {high:.4g}; {how}."
