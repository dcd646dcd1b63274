"""Checkpoints in and out, on disk or on the hub: the layout of each, and the table of names that applies."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from diptych.core.files.errors import as_settings
from diptych.core.files.json_objects import read_json, write_config
from diptych.core.weights.files import BFLOAT16, WeightFiles
from diptych.core.weights.flat_shards import SHAPES_FILE
from diptych.core.weights.hub import preset_folder
from diptych.core.weights.mapping import Arrays, Table, WeightsMismatch
from diptych.core.weights.open import open_weights
from diptych.core.weights.safetensors import write_safetensors_folder
from diptych.models.abstract import give_values, shapes_only
from diptych.models.classifier.config import ClassifierConfig
from diptych.models.clip.config import CLIPConfig
from diptych.models.gemma.config import GemmaConfig
from diptych.models.gpt.config import GPTConfig
from diptych.models.gpt.double_heads_config import GPTDoubleHeadsConfig
from diptych.models.paligemma.config import PaliGemmaConfig
from diptych.models.paligemma.mask_decoder_config import MaskDecoderConfig
from diptych.models.parts.int8_weights import MODE as INT8
from diptych.models.parts.int8_weights import hold_int8, in_int8, scale_of
from diptych.models.presets import ALL_PRESETS
from diptych.models.siglip.config import PairConfig, SigLIPConfig
from diptych.models.weights import (
    big_vision,
    big_vision_paligemma,
    bit,
    keras_hub,
    keras_hub_paligemma,
    mask_decoder,
    open_clip,
    openai_gpt,
    transformers,
    transformers_classifier,
    transformers_fields,
    transformers_gemma,
    transformers_gpt,
    transformers_paligemma,
)

Config = (
    PairConfig | ClassifierConfig | GPTConfig | GPTDoubleHeadsConfig | GemmaConfig | PaliGemmaConfig | MaskDecoderConfig
)
TowerName = Literal["image", "text"]
IMAGE_PREFIX = "vision_model."
"""What transformers 5 leaves out of the names of an image tower that is saved alone."""
KINDS: dict[str, type] = {
    "diptych_siglip": SigLIPConfig,
    "diptych_clip": CLIPConfig,
    "diptych_classifier": ClassifierConfig,
    "diptych_gpt": GPTConfig,
    "diptych_gpt_double_heads": GPTDoubleHeadsConfig,
    "diptych_gemma": GemmaConfig,
    "diptych_paligemma": PaliGemmaConfig,
    "diptych_mask_decoder": MaskDecoderConfig,
}


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a folder holds: the model's configuration, its weights, and the names that these have there.

    `table` takes configuration and weights, because several layouts name the same weights in more than one way. None
    stands for diptych's own names.
    """

    layout: str
    config: Config
    weights: Path
    table: Callable[[Any, WeightFiles], Table] | None

    def names(self, files: WeightFiles, shapes: Mapping[str, tuple[int, ...]] | None = None) -> Table:
        """The table for these weights, and a model of these shapes; before there is one, for the names in the files."""
        if self.table is None:
            return Table.same_names(files.shapes if shapes is None else shapes)
        return self.table(self.config, files)


def load_model(
    preset: str | Path,
    build: Callable[..., Any],
    expected: type | tuple[type, ...],
    *,
    revision: str | None = None,
    load_weights: bool = True,
    dtype: str | None = None,
    **arguments,
):
    """The model of a preset, built by `build(config, **arguments)`; see `PretrainedPair.from_preset`.

    Weights are read one by one, the largest first, into a model that has none yet: at its peak this takes the weights'
    own memory and that of one more tensor. With the dtype "int8", or such as "int8_from_bfloat16", as Keras names them,
    the matrices of its layers are kept in int8 (`Int8Weights`), and the rest is computed in float32, or bfloat16.

    Raises:
        ValueError: for a preset whose configuration is not one of the `expected` classes, and for the name of a size
            where weights are expected.
    """
    if dtype is not None and dtype.startswith(INT8):
        return _in_int8(preset, build, expected, dtype, revision=revision, load_weights=load_weights, **arguments)
    if dtype is not None:
        arguments["dtype"] = dtype
    if preset in ALL_PRESETS:
        size = _expected(preset, ALL_PRESETS[str(preset)], expected)
        if load_weights:
            raise ValueError(
                f"{str(preset)!r} is a size, which has no weights. Give a trained model: a folder, hf://owner/name, or "
                "emoji_36_languages. load_weights=False makes a model of the size with fresh weights."
            )
        return build(size, **arguments)
    checkpoint = read_checkpoint(preset_folder(preset, revision=revision, known=ALL_PRESETS))
    config = _expected(preset, checkpoint.config, expected)
    if not load_weights:
        return build(config, **arguments)
    with open_weights(checkpoint.weights) as files:
        model, values = _whole(preset, checkpoint, files, lambda config: build(config, **arguments))
        give_values(model, values)
    return model


def _in_int8(preset, build, expected, dtype: str, *, load_weights: bool, **arguments):
    """A model with weights in int8; see `load_model`."""
    base = dtype.removeprefix(INT8).removeprefix("_from_") or "float32"
    if dtype not in (INT8, f"{INT8}_from_{base}") or not load_weights:
        raise ValueError(
            f"dtype={dtype!r}: expected int8, int8_from_float32 or int8_from_bfloat16, of a model whose weights are "
            f"loaded, got load_weights={load_weights}."
        )
    checkpoint = read_checkpoint(preset_folder(preset, revision=arguments.pop("revision"), known=ALL_PRESETS))
    _expected(preset, checkpoint.config, expected)
    with open_weights(checkpoint.weights) as files:
        model, values = _whole(preset, checkpoint, files, lambda config: build(config, dtype=base, **arguments))
        with shapes_only():
            axes = hold_int8(model)
        give_values(model, in_int8(values, axes))
    model._post_quantize(INT8)
    return model


def towers_of(config: Config) -> dict[str, Any]:
    """The configurations of a model's transformers, by the names that their weights' paths begin with."""
    if isinstance(config, GPTConfig | GemmaConfig | MaskDecoderConfig):
        return {"decoder": config}
    if isinstance(config, GPTDoubleHeadsConfig):
        return {"decoder": config.decoder}
    if isinstance(config, PaliGemmaConfig):
        return {"image": config.vision, "decoder": config.text}
    towers: dict[str, Any] = {"image": config.vision}
    return towers if isinstance(config, ClassifierConfig) else towers | {"text": config.text}


def stored_values(
    preset: str | Path, checkpoint: Checkpoint, build: Callable[..., keras.Model]
) -> Iterator[tuple[str, np.ndarray]]:
    """The weights of a checkpoint's model by the paths that they have here, one by one.

    `build` makes the model of a configuration.
    """
    with open_weights(checkpoint.weights) as files:
        _, values = _whole(preset, checkpoint, files, build)
        yield from values


def _whole(
    preset: str | Path, checkpoint: Checkpoint, files: WeightFiles, build: Callable[[Config], Any]
) -> tuple[Any, Iterator[tuple[str, np.ndarray]]]:
    """The model of a checkpoint, without values, and its values by path."""
    config = checkpoint.config
    _check_depths(checkpoint, towers_of(config).values(), files)
    table = checkpoint.names(files)
    lacks_text = isinstance(config, PairConfig) and not table.holds("text/", files)
    if lacks_text and table.holds("image/", files, IMAGE_PREFIX):
        raise ValueError(
            f"{preset} holds an image tower alone: use {towers_of(config)['image'].describes}.from_preset, or a "
            "checkpoint of both towers."
        )
    table.check(None, files)
    with shapes_only():
        model = build(config)
    shapes = _shapes(model)
    table = checkpoint.names(files, shapes)
    table.check(shapes, files)
    return model, table.load(files)


def load_image_tower(
    preset: str | Path,
    build: Callable[..., Any],
    expected: type | tuple[type, ...],
    *,
    revision: str | None = None,
    **arguments,
):
    """The image tower of a preset, built by `build(config, **arguments)`; see `ImageTower.from_preset`."""
    checkpoint = read_checkpoint(preset_folder(preset, revision=revision))
    config = _expected(preset, towers_of(checkpoint.config).get("image", checkpoint.config), expected)
    with open_weights(checkpoint.weights) as files:
        tower, values = _tower(preset, checkpoint, files, "image", lambda: build(config, **arguments))
        give_values(tower, values)
    return tower


def stored_tower(
    preset: str | Path, checkpoint: Checkpoint, tower: TowerName, build: Callable[[], keras.Model]
) -> Iterator[tuple[str, np.ndarray]]:
    """The weights of one tower of a checkpoint by the paths that they have here, one by one.

    `build` makes the tower, under its own name.

    Raises:
        ValueError: for a checkpoint without this tower.
    """
    with open_weights(checkpoint.weights) as files:
        _, values = _tower(preset, checkpoint, files, tower, build)
        yield from values


def _tower(
    preset: str | Path, checkpoint: Checkpoint, files: WeightFiles, tower: TowerName, build: Callable[[], Any]
) -> tuple[Any, Iterator[tuple[str, np.ndarray]]]:
    """A tower of a checkpoint, without values, and its values by path."""
    prefix = f"{tower}/"
    _check_depths(checkpoint, [towers_of(checkpoint.config)[tower]], files)
    alone = not any(name.startswith(IMAGE_PREFIX) for name in files.shapes)
    without = IMAGE_PREFIX if alone and tower == "image" else ""
    table = checkpoint.names(files)
    if not table.holds(prefix, files, without):
        raise ValueError(f"{preset} holds no {tower} tower. Give a checkpoint of it, or of both towers.")
    table.only(prefix, without=without).check(None, files)
    with shapes_only():
        model = build()
    shapes = _shapes(model)
    table = checkpoint.names(files, shapes).only(prefix, without=without)
    table.check(shapes, files)
    return model, table.load(files)


def _expected(preset: str | Path, config, expected: type | tuple[type, ...]):
    if not isinstance(config, expected):
        raise ValueError(f"{preset} holds a {config.describes}; use {config.describes}.from_preset.")
    return config


def read_checkpoint(path: Path) -> Checkpoint:
    """Finds out what lies at a path.

    Raises:
        FileNotFoundError: for a path without a checkpoint, saying what was looked for.
        ValueError: for a configuration that no model here has.
    """
    folder = path if path.is_dir() else path.parent
    if path.suffix == ".npz":
        with open_weights(path) as files, as_settings(path):
            if bit.kind_of(files.shapes):
                config: Config = bit.npz_config_of(files)
                return Checkpoint(layout="big_vision", config=config, weights=path, table=bit.npz_table)
            if mask_decoder.is_mask_decoder(files.shapes):
                config = mask_decoder.config_of(files)
                return Checkpoint(layout="big_vision", config=config, weights=path, table=mask_decoder.table)
            layout: Any = big_vision_paligemma if big_vision_paligemma.is_paligemma(files) else big_vision
            config = layout.config_of(files)
        return Checkpoint(layout="big_vision", config=config, weights=path, table=layout.table)
    weights = path if path.is_file() else folder / open_clip.WEIGHTS_FILE
    if weights.name == open_clip.WEIGHTS_FILE and weights.is_file() and (folder / open_clip.CONFIG_FILE).is_file():
        with open_weights(weights) as files, as_settings(folder / open_clip.CONFIG_FILE):
            config = open_clip.config_of(read_json(folder / open_clip.CONFIG_FILE), files)
        return Checkpoint(layout="open_clip", config=config, weights=weights, table=open_clip.table)
    if path.name == SHAPES_FILE or ((folder / SHAPES_FILE).is_file() and not (folder / "config.json").exists()):
        weights = folder / SHAPES_FILE
        with open_weights(weights) as files, as_settings(weights):
            config = openai_gpt.config_of(files)
        return Checkpoint(layout="openai", config=config, weights=weights, table=openai_gpt.table)
    archives = sorted(folder.glob("*.npz"))
    if len(archives) == 1 and not (folder / "config.json").exists():
        return read_checkpoint(archives[0])
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{path} holds no checkpoint: expected config.json (transformers, keras-hub, diptych) or "
            f"{open_clip.CONFIG_FILE} beside safetensors or .weights.h5, a big_vision .npz, or OpenAI's {SHAPES_FILE}."
        )
    with as_settings(folder / "config.json"):
        return _described(path, folder / "config.json")


def _described(path: Path, described_by: Path) -> Checkpoint:
    """The checkpoint that a config.json describes."""
    fields = read_json(described_by)
    if fields.get("model_type") in KINDS:
        config: Config = KINDS[fields["model_type"]](**fields["config"])
        return Checkpoint(layout="diptych", config=config, weights=path, table=None)
    if str(fields.get("module", "")).startswith("keras_hub"):
        if fields.get("class_name") == keras_hub_paligemma.CLASS:
            config = keras_hub_paligemma.config_of(fields)
            return Checkpoint(layout="keras_hub", config=config, weights=path, table=keras_hub_paligemma.table)
        return Checkpoint(layout="keras_hub", config=keras_hub.config_of(fields), weights=path, table=keras_hub.table)
    if bit.TIMM_NAME.fullmatch(str(fields.get("architecture"))):
        with open_weights(path) as files:
            config = bit.timm_config_of(fields, files)
        return Checkpoint(layout="timm", config=config, weights=path, table=bit.timm_table)
    if "siglip" in str(fields.get("architecture")):
        with open_weights(path) as files:
            config = open_clip.trunk_config_of(files)
        return Checkpoint(layout="timm", config=config, weights=path, table=open_clip.trunk_table)
    if fields.get("model_type") == transformers_gpt.MODEL_TYPE:
        config = transformers_gpt.config_of(fields, described_by)
        return Checkpoint(layout="transformers", config=config, weights=path, table=transformers_gpt.table)
    if fields.get("model_type") in transformers_gemma.MODEL_TYPES:
        config = transformers_gemma.config_of(fields, described_by)
        return Checkpoint(layout="transformers", config=config, weights=path, table=transformers_gemma.table)
    if fields.get("model_type") == transformers_paligemma.MODEL_TYPE:
        config = transformers_paligemma.config_of(fields, described_by)
        return Checkpoint(layout="transformers", config=config, weights=path, table=transformers_paligemma.table)
    if transformers_classifier.is_classifier(fields):
        config = transformers_classifier.config_of(fields, described_by)
        return Checkpoint(layout="transformers", config=config, weights=path, table=transformers_classifier.table)
    config = transformers_fields.config_of(fields, described_by)
    return Checkpoint(layout="transformers", config=config, weights=path, table=transformers.table)


def refuse_changed(model) -> None:
    """Raises ValueError for a model with adapters or with weights in int8, which no file holds."""
    if hasattr(model, "adapters"):
        raise ValueError(
            "The model has adapters, which its files have no place for: merge_lora() adds them to their kernels first."
        )
    if any(scale_of(variable) is not None for variable in model.weights):
        raise ValueError(
            "This model's weights are in int8, for inference, and no file holds these: read the checkpoint that they "
            "came from in float32 or bfloat16, and write that."
        )


def save_model(model, folder: Path, *, format: str, dtype: str | None = None) -> None:
    """Writes a model's configuration and weights; see `PretrainedPair.save_to_preset`.

    Args:
        dtype: that weights are stored in; None for their own.

    Raises:
        ValueError: for a model that a layout cannot express, and see `refuse_changed`.
    """
    refuse_changed(model)
    config = model.config
    arrays = {variable.path: _reader(variable, dtype or variable.dtype) for variable in model.weights}
    if format == "diptych":
        kind = next(name for name, config_class in KINDS.items() if isinstance(config, config_class))
        fields = {"model_type": kind, "config": asdict(config)}
        write_safetensors_folder(folder, arrays.items())
        write_config(folder / "config.json", fields)
        return
    writers: dict[str, Callable[[Path, Any, Arrays], None]] = {
        "transformers": transformers.write,
        "open_clip": open_clip.write,
        "big_vision": big_vision.write,
    }
    if isinstance(config, ClassifierConfig):
        writers = {
            "transformers": transformers_classifier.write,
            "big_vision": bit.write_npz_file,
            "timm": bit.write_timm,
        }
    if isinstance(config, GPTConfig):
        writers = {"transformers": transformers_gpt.write, "openai": openai_gpt.write}
    if isinstance(config, GPTDoubleHeadsConfig):
        writers = {}
    if isinstance(config, GemmaConfig):
        writers = {"transformers": transformers_gemma.write}
    if isinstance(config, MaskDecoderConfig):
        writers = {"big_vision": mask_decoder.write}
    if isinstance(config, PaliGemmaConfig):
        writers = {"transformers": transformers_paligemma.write, "big_vision": big_vision_paligemma.write}
    if format not in writers:
        raise ValueError(f"format must be one of {', '.join(['diptych', *writers])}, got {format!r}.")
    writers[format](folder, config, arrays)


def _check_depths(checkpoint: Checkpoint, towers: Iterable[Any], files: WeightFiles) -> None:
    """Raises WeightsMismatch for a tower of more layers than the files can hold, before names of each are made.

    big_vision's configurations are the files' own shapes, in which one tensor may hold all layers.
    """
    most = len(files.shapes)
    for tower in towers:
        if tower.depth > most and checkpoint.layout != "big_vision":
            raise WeightsMismatch(
                f"The configuration beside {files.source} describes {tower.depth:,} layers, and the file holds no more "
                f"than {most} tensors. Do they belong together? Fetch both again."
            )


def _shapes(model: keras.Model) -> dict[str, tuple[int, ...]]:
    return {variable.path: tuple(variable.shape) for variable in model.weights}


def _reader(variable: keras.Variable, dtype: str) -> Callable[[], np.ndarray]:
    stored = BFLOAT16 if dtype == "bfloat16" else np.dtype(dtype)
    return lambda: keras.ops.convert_to_numpy(variable.value).astype(stored, copy=False)
