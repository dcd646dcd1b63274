"""Processors on disk: diptych's processor.json, and the files of transformers' and open_clip's checkpoints."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diptych.core.data.examples.naflex import NaFlex
from diptych.core.data.image import RESIZE_METHODS
from diptych.core.data.pixels import CLIP_MEAN, CLIP_STD, FixedSize, Normalization
from diptych.core.data.processor.model_sizes import OPEN_CLIP_FILE, OWN
from diptych.core.data.processor.transformers_images import (
    MOST_PATCHES,
    MOST_PIXELS_A_SIDE,
    RELEASED_SIZE,
    read_images,
    write_images,
)
from diptych.core.data.tokenizers.base import Tokenizer
from diptych.core.data.tokenizers.clip_bpe import ClipTokenizer
from diptych.core.data.tokenizers.export import is_like_gemma, tokenizer_definition
from diptych.core.data.tokenizers.open import open_tokenizer
from diptych.core.data.tokenizers.vocabularies import STRIP_PUNCTUATION, open_vocabulary
from diptych.core.files.atomic import replacing
from diptych.core.files.fields import Fields, read_fields
from diptych.core.files.json_objects import write_config

OWN_FILE = "processor.json"
PATTERNS = ("*.json", "*.model", "*.txt", "*.txt.gz")
"""The files of a checkpoint that a processor is read from."""

MOST_TOKENS = 65_536
PALIGEMMA = "paligemma"
"""The kind of model that is asked, whose processor is `prompted.PaliGemmaProcessor`."""

Parts = tuple[FixedSize | NaFlex, Tokenizer, int, bool]
"""How pictures become pixels, how texts become ids, how many ids, and whether captions are cleaned first."""


def read_parts(folder: Path) -> Parts:
    """What a processor is made of, from a checkpoint's folder.

    Raises:
        FileNotFoundError: where files are missing, saying which.
        WeightFileError: a ValueError, for files that are damaged or say what cannot be done.
    """
    if model_kind(folder) == PALIGEMMA:
        raise ValueError(f"{folder} holds a PaliGemma, which is asked: use PaliGemmaProcessor.from_preset.")
    if (folder / OWN_FILE).is_file():
        return _read_own(folder)
    if (folder / OPEN_CLIP_FILE).is_file():
        return _read_open_clip(folder)
    return _read_transformers(folder)


def read_pixels(folder: Path) -> FixedSize | NaFlex:
    """How pictures become pixels, from a checkpoint's folder, which needs no vocabulary; errors as `read_parts`."""
    if (folder / OWN_FILE).is_file():
        return own_pixels(read_fields(folder / OWN_FILE).object("image"))
    if (folder / OPEN_CLIP_FILE).is_file():
        return _open_clip_pixels(read_fields(folder / OPEN_CLIP_FILE))
    return read_images(_image_fields(folder), _model_config(folder).get("model_type", str, ""))


def own_settings(pixels: FixedSize | NaFlex, tokenizer: Tokenizer, context_length: int, clean: bool) -> dict[str, Any]:
    """The content of processor.json."""
    return {
        "image": pixels.settings(),
        "text": {
            "tokenizer": tokenizer.file_name,
            "context_length": context_length,
            "pad_id": tokenizer.pad_id,
            "eos_id": tokenizer.eos_id,
            "bos_id": tokenizer.bos_id,
            "lower_case": tokenizer.lower_case,
            "strip_punctuation": tokenizer.strip_punctuation,
            "clean_captions": clean,
        },
    }


def write_own(folder: Path, parts: Parts) -> None:
    """Writes processor.json and the vocabulary as it is."""
    tokenizer = parts[1]
    write_bytes(folder / tokenizer.file_name, tokenizer.data)
    write_config(folder / OWN_FILE, own_settings(*parts))


def write_own_pixels(folder: Path, pixels: FixedSize | NaFlex) -> None:
    """Writes a processor.json that says nothing of texts."""
    write_config(folder / OWN_FILE, {"image": pixels.settings()})


def write_transformers_pixels(folder: Path, pixels: FixedSize | NaFlex) -> None:
    """Writes preprocessor_config.json alone; raises ValueError for a way of resizing that transformers does not
    have.
    """
    write_config(folder / "preprocessor_config.json", write_images(pixels))


def write_transformers(folder: Path, parts: Parts) -> None:
    """Writes preprocessor_config.json and the tokenizer's files, every field spelt out; versions 4 and 5 of
    transformers read them.

    Raises:
        ValueError: for a way of resizing, or a kind of vocabulary, that transformers does not have.
    """
    pixels, tokenizer, context_length, _ = parts
    is_clip = isinstance(tokenizer, ClipTokenizer)
    family = "CLIP" if is_clip else "Siglip2" if isinstance(pixels, NaFlex) else "Siglip"
    images = {**write_images(pixels), "processor_class": f"{family}Processor"}
    definition = tokenizer_definition(tokenizer, context_length)
    if family == "Siglip2" and not is_like_gemma(definition):
        warnings.warn(
            "AutoTokenizer and AutoProcessor of transformers 5 take the vocabulary of every NaFlex checkpoint for "
            "Gemma's, and get other ids from this one. Load it as "
            f"PreTrainedTokenizerFast.from_pretrained({str(folder)!r}), which gives the right ones, and join it to the "
            "AutoImageProcessor by Siglip2Processor(image_processor, tokenizer).",
            stacklevel=3,
        )
    special = {
        "pad_token": tokenizer.token(tokenizer.pad_id),
        "eos_token": tokenizer.token(tokenizer.eos_id),
        "unk_token": _unknown_token(definition),
    }
    if tokenizer.bos_id is not None:
        special["bos_token"] = tokenizer.token(tokenizer.bos_id)
    settings = {
        **special,
        "tokenizer_class": "CLIPTokenizer" if is_clip else "PreTrainedTokenizerFast",
        "processor_class": f"{family}Processor",
        "pad_token_id": tokenizer.pad_id,
        "eos_token_id": tokenizer.eos_id,
        "bos_token_id": tokenizer.bos_id,
        "add_bos_token": tokenizer.bos_id is not None,
        "add_eos_token": True,
        "do_lower_case": tokenizer.lower_case,
        STRIP_PUNCTUATION: tokenizer.strip_punctuation,
        "padding_side": "right",
        "truncation_side": "right",
        "model_max_length": context_length,
        "max_length": context_length,
        "model_input_names": ["input_ids"],
        "clean_up_tokenization_spaces": False,
    }
    text = json.dumps(definition, ensure_ascii=False, separators=(",", ":"))
    write_bytes(folder / "tokenizer.json", text.encode("utf-8"))
    if isinstance(tokenizer, ClipTokenizer):
        write_config(folder / "vocab.json", tokenizer.vocabulary)
        merges = "".join(f"{first} {second}\n" for first, second in tokenizer.merges)
        write_bytes(folder / "merges.txt", f"#version: 0.2\n{merges}".encode())
    write_config(folder / "special_tokens_map.json", special)
    write_config(folder / "tokenizer_config.json", settings)
    write_config(folder / "preprocessor_config.json", images)


def _read_own(folder: Path) -> Parts:
    fields = read_fields(folder / OWN_FILE)
    image, text = fields.object("image"), fields.object("text")
    name = text.require("tokenizer", str)
    if Path(name).name != name:
        raise text.wrong("tokenizer", "the name of a file in the same folder")
    tokenizer = open_tokenizer(folder / name)
    if text.get("eos_id", int, tokenizer.eos_id) != tokenizer.eos_id:
        raise text.wrong("eos_id", f"{tokenizer.eos_id}, as {name} has it: do the files belong together?")
    pad_id = text.get("pad_id", int, tokenizer.pad_id)
    if not 0 <= pad_id < tokenizer.vocab_size:
        raise text.wrong("pad_id", f"an id of the vocabulary, 0 to {tokenizer.vocab_size - 1}")
    tokenizer.pad_id = pad_id
    tokenizer.lower_case = text.get("lower_case", bool, tokenizer.lower_case)
    tokenizer.strip_punctuation = text.get("strip_punctuation", bool, tokenizer.strip_punctuation)
    context_length = text.count("context_length", 64, most=MOST_TOKENS)
    return own_pixels(image), tokenizer, context_length, text.get("clean_captions", bool, True)


def own_pixels(fields: Fields) -> FixedSize | NaFlex:
    """How pictures become pixels, from what `settings` of either kind gives."""
    kind, method = fields.require("kind", str), fields.get("resize", str, "bilinear_antialias")
    if method not in RESIZE_METHODS:
        raise fields.wrong("resize", f"one of {', '.join(RESIZE_METHODS)}")
    given = fields.object("normalization")
    plain = Normalization()
    normalization = Normalization(
        scale=given.get("scale", float, plain.scale),
        mean=given.three("mean", plain.mean),
        std=given.three("std", plain.std),
    )
    if kind == "naflex":
        return NaFlex(
            patch_size=fields.count("patch_size", 16, most=MOST_PIXELS_A_SIDE),
            max_num_patches=fields.count("max_num_patches", 256, most=MOST_PATCHES),
            resize=method,
            normalization=normalization,
        )
    if kind != "fixed_size":
        raise fields.wrong("kind", "fixed_size or naflex")
    height, width = (fields.count(side, RELEASED_SIZE, most=MOST_PIXELS_A_SIDE) for side in ("height", "width"))
    return FixedSize(
        height=height,
        width=width,
        resize=method,
        shortest_edge=fields.optional("shortest_edge", int),
        normalization=normalization,
    )


def _read_transformers(folder: Path) -> Parts:
    pixels, tokenizer = read_pixels(folder), open_vocabulary(folder)
    return pixels, tokenizer, _context_length(folder, _model_config(folder), tokenizer), False


def model_kind(folder: Path) -> str:
    """The model_type of a folder's config.json, the same for ours and transformers'; nothing where there is none."""
    return _model_config(folder).get("model_type", str, "").removeprefix(OWN)


def _model_config(folder: Path) -> Fields:
    """config.json; nothing where there is none."""
    return read_fields(folder / "config.json") if (folder / "config.json").is_file() else Fields(str(folder), {})


def _context_length(folder: Path, config: Fields, tokenizer: Tokenizer) -> int:
    """What config.json says that the text tower takes; without a config.json, what the tokenizer's settings say."""
    is_clip = config.get("model_type", str, "") == "clip" or isinstance(tokenizer, ClipTokenizer)
    default = 77 if is_clip else 64
    if not config.values and (folder / "tokenizer_config.json").is_file():
        limit = read_fields(folder / "tokenizer_config.json").get("model_max_length", float, default)
        return int(limit) if 2 <= limit <= MOST_TOKENS else default
    return config.object("text_config").count("max_position_embeddings", default, most=MOST_TOKENS)


def _image_fields(folder: Path) -> Fields:
    """The image processor's fields: version 5 nests them in processor_config.json, which comes first, as in
    transformers.
    """
    if (folder / "processor_config.json").is_file():
        nested = read_fields(folder / "processor_config.json").object("image_processor")
        if nested.values:
            return nested
    if (folder / "preprocessor_config.json").is_file():
        return read_fields(folder / "preprocessor_config.json")
    raise FileNotFoundError(
        f"{folder} says nothing of preprocessing: expected {OWN_FILE} (diptych), preprocessor_config.json or "
        f"processor_config.json (transformers), or {OPEN_CLIP_FILE}. Make a "
        "diptych.core.data.processor.processor.Processor with the settings that the model was trained with, and save "
        "it there."
    )


def _read_open_clip(folder: Path) -> Parts:
    """open_clip pads CLIP's texts with 0."""
    fields = read_fields(folder / OPEN_CLIP_FILE)
    text = fields.object("model_cfg").object("text_cfg")
    tokenizer = open_vocabulary(folder)
    if isinstance(tokenizer, ClipTokenizer) and "hf_tokenizer_name" not in text:
        tokenizer.pad_id = 0
    return _open_clip_pixels(fields), tokenizer, text.count("context_length", 77, most=MOST_TOKENS), False


def _open_clip_pixels(fields: Fields) -> FixedSize:
    """open_clip resizes the shortest side and crops unless told to squash."""
    model, preprocessing = fields.object("model_cfg"), fields.object("preprocess_cfg")
    side = model.object("vision_cfg").count("image_size", RELEASED_SIZE, most=MOST_PIXELS_A_SIDE)
    method = preprocessing.get("interpolation", str, "bicubic")
    if method not in ("bicubic", "bilinear"):
        raise preprocessing.wrong("interpolation", "bicubic or bilinear")
    mode = preprocessing.get("resize_mode", str, "shortest")
    if mode not in ("shortest", "squash"):
        raise preprocessing.wrong("resize_mode", "shortest or squash")
    return FixedSize(
        height=side,
        width=side,
        resize="bicubic_antialias" if method == "bicubic" else "bilinear_antialias",
        shortest_edge=side if mode == "shortest" else None,
        normalization=Normalization(
            mean=preprocessing.three("mean", CLIP_MEAN), std=preprocessing.three("std", CLIP_STD)
        ),
    )


def _unknown_token(definition: dict[str, Any]) -> str:
    model = definition["model"]
    return model["vocab"][model["unk_id"]][0] if model["type"] == "Unigram" else model["unk_token"]


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file, which appears whole or not at all."""
    with replacing(path) as file:
        file.write(data)


WRITERS: dict[str, Callable[[Path, Parts], None]] = {"diptych": write_own, "transformers": write_transformers}
"""How a processor is written, by the name of the format."""

IMAGE_WRITERS: dict[str, Callable[[Path, FixedSize | NaFlex], None]] = {
    "diptych": write_own_pixels,
    "transformers": write_transformers_pixels,
}
"""How the pictures' half of a processor is written, by the name of the format."""
