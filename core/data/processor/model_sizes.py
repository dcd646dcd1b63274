"""The sizes of a model's inputs, by its configuration, held against what its processor prepares.

The files of a checkpoint's folder are one thing. Where they come from two, nothing fails: ids without a row in the
model's table of tokens give NaN on jax and other vectors elsewhere.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from diptych.core.data.examples.naflex import NaFlex
from diptych.core.data.pixels import FixedSize
from diptych.core.data.tokenizers.base import Tokenizer
from diptych.core.data.tokenizers.vocabularies import is_t5_vocabulary
from diptych.core.files.fields import Fields, read_fields

CONFIG_FILE, OPEN_CLIP_FILE = "config.json", "open_clip_config.json"
OWN = "diptych_"
"""What the model_type of our own folders begins with."""
_DEFAULTS = {
    "siglip": (32_000, 64, 224),
    "siglip2": (32_000, 64, None),
    "clip": (49_408, 77, 224),
    "paligemma": (256_000, 8_192, 224),
}
"""What transformers takes for the vocabulary, the length of texts and the side of images that a file leaves out."""


@dataclass(frozen=True, kw_only=True)
class ModelSizes:
    """None stands for what is not known, and for an `image_size` that may be any.

    vocab_size: rows of the table of tokens.   context_length: ids of a text.
    image_size: pixels a side.   patch_size: of a NaFlex model, which takes patches; None for one that takes images.
    """

    vocab_size: int | None = None
    context_length: int | None = None
    image_size: int | None = None
    patch_size: int | None = None


def sizes_in(folder: Path) -> ModelSizes:
    """What the configuration in a checkpoint's folder says; nothing where there is none, or one of another kind."""
    if not (folder / CONFIG_FILE).is_file():
        described = (folder / OPEN_CLIP_FILE).is_file()
        return _of_open_clip(read_fields(folder / OPEN_CLIP_FILE)) if described else ModelSizes()
    fields = read_fields(folder / CONFIG_FILE)
    kind = fields.get("model_type", str, "")
    if kind.startswith(OWN):
        return _of_own(fields.object("config"))
    return _of_transformers(fields, kind) if kind in _DEFAULTS else ModelSizes()


def check_together(
    where: str, sizes: ModelSizes, pixels: FixedSize | NaFlex, tokenizer: Tokenizer, context_length: int | None
) -> None:
    """Raises ValueError, saying all that differs, unless a processor prepares what a model takes.

    A table may have more rows than the vocabulary has tokens. T5's vocabularies may be the larger ones: the released
    multilingual SigLIP has no rows for mT5's hundred sentinels, which no text contains. `context_length` is None where
    texts are as long as they are.
    """
    lines = []
    if sizes.vocab_size is not None and tokenizer.vocab_size > sizes.vocab_size and not is_t5_vocabulary(tokenizer):
        lines.append(f"the vocabulary has {tokenizer.vocab_size:,} tokens, the model's table {sizes.vocab_size:,} rows")
    if context_length is not None and sizes.context_length not in (None, context_length):
        lines.append(f"texts are prepared as {context_length} ids, the model takes {sizes.context_length}")
    _refuse(where, [*lines, *_pixels_that_differ(sizes, pixels)])


def check_pixels(where: str, sizes: ModelSizes, pixels: FixedSize | NaFlex) -> None:
    """As `check_together`, of pictures alone."""
    _refuse(where, _pixels_that_differ(sizes, pixels))


def _pixels_that_differ(sizes: ModelSizes, pixels: FixedSize | NaFlex) -> list[str]:
    given = pixels.patch_size if isinstance(pixels, NaFlex) else pixels.input_size
    taken = sizes.patch_size or (sizes.image_size and (sizes.image_size, sizes.image_size))
    if taken is not None and isinstance(given, tuple) != isinstance(taken, tuple):
        return ["one of processor and model is for NaFlex's patches, the other for images of one size"]
    if taken not in (None, given):
        return [f"pictures are prepared as {_spoken(given)}, the model takes {_spoken(taken)}"]
    return []


def _refuse(where: str, lines: list[str]) -> None:
    if lines:
        raise ValueError(
            f"{where}: processor and model do not belong together: {'; '.join(lines)}. Take both from one checkpoint, "
            "or correct the file that was changed."
        )


def _spoken(size: int | tuple[int, int] | None) -> str:
    return f"{size[0]} x {size[1]} pixels" if isinstance(size, tuple) else f"patches of {size} pixels"


def _of_own(config: Fields) -> ModelSizes:
    vision, text = config.object("vision"), config.object("text")  # a classifier has no text
    naflex = "position_grid" in vision
    return ModelSizes(
        vocab_size=text.optional("vocab_size", int),
        context_length=text.optional("context_length", int),
        image_size=None if naflex else vision.optional("image_size", int),
        patch_size=vision.optional("patch_size", int) if naflex else None,
    )


def _of_transformers(fields: Fields, kind: str) -> ModelSizes:
    """Of the towers that the file speaks of."""
    (vocab_size, context_length, image_size), sizes = _DEFAULTS[kind], ModelSizes()
    if (text := _tower(fields, "text")) is not None:
        sizes = replace(
            sizes,
            vocab_size=text.get("vocab_size", int, vocab_size),
            context_length=text.get("max_position_embeddings", int, context_length),
        )
    if (vision := _tower(fields, "vision")) is not None:
        naflex = image_size is None
        sizes = replace(
            sizes,
            image_size=None if naflex else vision.get("image_size", int, image_size or 0),
            patch_size=vision.get("patch_size", int, 16) if naflex else None,
        )
    return sizes


def _tower(fields: Fields, name: str) -> Fields | None:
    """Early CLIP repositories have some fields of a tower a second time, under a name that wins."""
    if f"{name}_config" not in fields and f"{name}_config_dict" not in fields:
        return None
    first, second = fields.object(f"{name}_config"), fields.object(f"{name}_config_dict")
    return Fields(first.where, first.values | second.values)


def _of_open_clip(fields: Fields) -> ModelSizes:
    model = fields.object("model_cfg")
    text, vision = model.object("text_cfg"), model.object("vision_cfg")
    return ModelSizes(
        vocab_size=text.get("vocab_size", int, 49_408),
        context_length=text.get("context_length", int, 77),
        image_size=vision.get("image_size", int, 224),
    )
