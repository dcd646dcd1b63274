"""Hugging Face transformers' PaliGemma 1 and 2: the names and the `config.json` of model type paligemma.

The names of the parts have changed from version to version; what stands before each is taken from the files:

    written by          image tower                     language model          projector
    4.41 to 4.51        vision_tower.vision_model.      language_model.model.   multi_modal_projector.
    4.52 on             model.vision_tower.vision_model.  model.language_model.  model.multi_modal_projector.
    5.6 on, in memory   model.vision_tower.             model.language_model.   model.multi_modal_projector.
    5.24, a fresh one   vision_tower.                   language_model.model.   multi_modal_projector.

Written are the first, which all versions read. transformers' table of tokens is filled up to 257,216 rows, of which
those from `image_token_index` on stand for nothing: they are kept, and never predicted.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from diptych.core.files.json_objects import write_config
from diptych.core.weights.files import WeightFiles
from diptych.core.weights.mapping import TRANSPOSED, Arrays, Rule, Table
from diptych.core.weights.safetensors import write_safetensors_folder
from diptych.models.gemma.config import GemmaConfig
from diptych.models.paligemma.config import PaliGemmaConfig
from diptych.models.siglip.config import VisionConfig
from diptych.models.weights import transformers, transformers_fields, transformers_gemma

MODEL_TYPE = "paligemma"
_VISION, _TEXT, _PROJECTOR = "vision_tower.vision_model.", "language_model.model.", "multi_modal_projector."
_MOST_UNUSED_ROWS = 64
"""That transformers fills the table up with, to a multiple of so many."""


def table(config: PaliGemmaConfig, files: WeightFiles | None = None) -> Table:
    """Our names and transformers', with what stands before them in the files."""
    vision = transformers_gemma.prefix_of("embeddings.patch_embedding.weight", files, _VISION)
    text = transformers_gemma.prefix_of("embed_tokens.weight", files, _TEXT)
    projector = transformers_gemma.prefix_of("linear.weight", files, _PROJECTOR)
    rules = [
        Rule(rule.ours, [vision + name.removeprefix("vision_model.") for name in rule.theirs], rule.layout)
        for rule in transformers.vision_rules(config.vision)
    ]
    rules += [
        Rule("projector/kernel", f"{projector}linear.weight", TRANSPOSED),
        Rule("projector/bias", f"{projector}linear.bias"),
        *transformers_gemma.decoder_rules(config.text, text),
    ]
    return Table(rules, ignored=(*transformers_gemma.IGNORED, *transformers.IGNORED, f"{vision}head.*"))


def config_of(fields: Mapping[str, Any], source: Path) -> PaliGemmaConfig:
    """The configuration in a `config.json`; errors as for `transformers_gemma.config_of`.

    Of the text's configuration the sliding window is left out, with which PaliGemma 2 was not trained.
    """
    if not fields.get("vision_config") or not fields.get("text_config"):
        raise ValueError(f"{source} describes no PaliGemma: expected vision_config and text_config. Fetch it again.")
    vision = transformers_fields.vision_of({"model_type": "siglip", "vision_config": fields["vision_config"]}, source)
    text_fields = {"model_type": "gemma", **fields["text_config"]}
    text = replace(transformers_gemma.config_of(text_fields, source), sliding_window=None)
    return PaliGemmaConfig(
        vision=replace(vision, pooling="gap"),
        text=replace(text, predicted_ids=_predicted_ids(text, fields.get("image_token_index", 256_000))),
    )


def _predicted_ids(text: GemmaConfig, image_token: int) -> int | None:
    """How many rows of the table stand for tokens, where the last are filled up with rows that do not."""
    return image_token if 0 < text.vocab_size - image_token <= _MOST_UNUSED_ROWS else None


def write(folder: Path, config: PaliGemmaConfig, arrays: Arrays) -> None:
    """Writes `config.json` and the safetensors of PaliGemmaForConditionalGeneration.

    Raises:
        ValueError: for a model that transformers has no class for.
    """
    fields = {"dtype": transformers_gemma.stored_dtype(arrays), **fields_of(config)}
    write_safetensors_folder(folder, table(config).save(arrays), metadata={"format": "pt"})
    write_config(folder / "config.json", fields)


def fields_of(config: PaliGemmaConfig) -> dict[str, Any]:
    """The `config.json` of a model, but for the weights' dtype; errors as for `write`."""
    vision, text = config.vision, config.text
    if not isinstance(vision, VisionConfig):
        raise ValueError(
            "transformers' PaliGemma takes square images, and this one those of any aspect. Save it with "
            'format="diptych".'
        )
    of_image = {"num_image_tokens": vision.num_patches, "projection_dim": text.width}
    return {
        "architectures": ["PaliGemmaForConditionalGeneration"],
        "model_type": MODEL_TYPE,
        "hidden_size": text.width,
        "projection_dim": text.width,
        "image_token_index": text.num_predicted,
        "vocab_size": text.vocab_size,
        "ignore_index": -100,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
        "tie_word_embeddings": True,
        "vision_config": transformers_fields.vision_fields(vision) | of_image | {"vision_use_head": False},
        "text_config": transformers_gemma.fields_of(text) | {"num_image_tokens": vision.num_patches},
    }
