"""The same random weights in our models, in transformers' on torch and in keras-hub's on the running backend."""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from diptych.models.siglip.config import NaFlexVisionConfig, SigLIPConfig

Function = Callable[[], object]


def write_weights(config: SigLIPConfig, folder: Path) -> dict[str, Path]:
    """Draws random weights and writes them; -> layout -> the folder with them.

    Where keras-hub is installed the weights are its, and reach transformers' layout through our model.
    """
    if not find_spec("keras_hub") or isinstance(config.vision, NaFlexVisionConfig):
        _random_transformers_model(config).save_pretrained(folder / "transformers")
        return {"transformers": folder / "transformers"}
    from diptych.models import SigLIP

    _random_keras_hub_model(config).save_to_preset(str(folder / "keras_hub"))
    SigLIP.from_preset(folder / "keras_hub").save_to_preset(folder / "transformers", format="transformers")
    return {"transformers": folder / "transformers", "keras-hub": folder / "keras_hub"}


def our_functions(
    folder: Path, inputs: dict, driver, *, precision: str, compile: bool
) -> dict[str, dict[str, Function]]:
    """tower -> contestant -> a function that embeds the inputs with our model."""
    from diptych.models import SigLIP

    model = SigLIP.from_preset(folder, dtype=precision)
    embedders = {"images": model.image_embedder, "patches": model.image_embedder, "texts": model.text_embedder}
    return {
        tower: {f"diptych{way}": f for way, f in driver.ways(embedders[tower](), (arrays,), compile=compile).items()}
        for tower, arrays in inputs.items()
    }


def transformers_functions(
    folder: Path, inputs: dict, *, precision: str, compile: bool, accelerated: bool
) -> dict[str, dict[str, Function]]:
    """tower -> contestant -> a function that embeds the inputs with transformers' model, attention through torch's
    SDPA.
    """
    transformers, torch = _transformers_and_torch()
    from benchmarks.native import torch_inference

    dtype = getattr(torch, precision)
    model = transformers.AutoModel.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa").eval()
    model = model.to("cuda" if accelerated else "cpu")
    found: dict[str, dict[str, Function]] = {}
    for tower, arrays in inputs.items():
        part = model.text_model if tower == "texts" else model.vision_model
        arguments = _transformers_arguments(tower, arrays, dtype)
        run = partial(torch_inference.runner, inputs=(arguments,), accelerated=accelerated)
        found[tower] = {"transformers": run(_pooled_and_normalized(part))}
        if compile:
            found[tower]["transformers, torch.compile"] = run(_pooled_and_normalized(torch.compile(part)))
    return found


def keras_hub_functions(
    config: SigLIPConfig, folder: Path, inputs: dict, driver, *, precision: str
) -> dict[str, dict[str, Function]]:
    """tower -> contestant -> a function that embeds the inputs with keras-hub's model, compiled as ours is."""
    import keras

    from diptych.models.parts.heads import Normalize

    backbone = _random_keras_hub_model(config, precision)  # `from_preset` would keep the towers in float32
    backbone.load_weights(str(folder / "model.weights.h5"))
    encoders = {"images": (backbone.vision_encoder, "images"), "texts": (backbone.text_encoder, "token_ids")}
    found = {}
    for tower, array in inputs.items():
        encoder, name = encoders[tower]
        own = keras.Input(array.shape[1:], dtype=array.dtype.name)
        embedder = keras.Model(own, Normalize()(encoder({name: own})))
        ways = driver.ways(embedder, (array,), compile=False)
        found[tower] = {f"keras-hub{way}": function for way, function in ways.items()}
    return found


def _transformers_and_torch():
    """Both modules; transformers says nothing from then on but errors."""
    try:
        import torch
        import transformers
    except ImportError as error:
        raise SystemExit(
            f"{error.name} is not installed, and ours is compared with it: pip install transformers torch"
        ) from error
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers, torch


def _pooled_and_normalized(part) -> Callable:
    import torch

    return lambda arguments: torch.nn.functional.normalize(part(**arguments).pooler_output.float(), dim=-1)


def _transformers_arguments(tower: str, arrays, dtype) -> dict:
    """What transformers' towers are called with, in its own layout and integers."""
    import torch

    if tower == "texts":
        return {"input_ids": torch.from_numpy(arrays).long()}
    if tower == "images":
        return {"pixel_values": torch.from_numpy(arrays).permute(0, 3, 1, 2).contiguous().to(dtype)}
    shapes = arrays["spatial_shapes"]
    there = np.arange(arrays["patches"].shape[1]) < shapes.prod(axis=1, keepdims=True)
    return {
        "pixel_values": torch.from_numpy(arrays["patches"]).to(dtype),
        "pixel_attention_mask": torch.from_numpy(there.astype(np.int64)),
        "spatial_shapes": torch.from_numpy(shapes).long(),
    }


def _random_transformers_model(config: SigLIPConfig):
    transformers, torch = _transformers_and_torch()

    def tower(part):
        return {
            "hidden_size": part.width,
            "num_hidden_layers": part.depth,
            "intermediate_size": part.mlp_dim,
            "num_attention_heads": part.num_heads,
        }

    text = tower(config.text) | {
        "vocab_size": config.text.vocab_size,
        "max_position_embeddings": config.text.context_length,
        "projection_size": config.text.output_width,
        "bos_token_id": 1,
        "eos_token_id": 1,
    }
    vision = tower(config.vision) | {"patch_size": config.vision.patch_size}
    torch.manual_seed(0)
    if isinstance(config.vision, NaFlexVisionConfig):
        vision["num_patches"] = config.vision.position_grid**2
        return transformers.Siglip2Model(transformers.Siglip2Config(text_config=text, vision_config=vision))
    vision["image_size"] = config.vision.image_size
    return transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision))


def _random_keras_hub_model(config: SigLIPConfig, precision: str = "float32"):
    import keras
    from keras_hub.models import SigLIPBackbone, SigLIPTextEncoder, SigLIPVisionEncoder

    def tower(part):
        return {
            "hidden_dim": part.width,
            "num_layers": part.depth,
            "num_heads": part.num_heads,
            "intermediate_dim": part.mlp_dim,
            "dtype": precision,
        }

    keras.utils.set_random_seed(0)
    side = config.vision.image_size
    vision = SigLIPVisionEncoder(
        **tower(config.vision), patch_size=config.vision.patch_size, image_shape=(side, side, 3)
    )
    text = SigLIPTextEncoder(
        **tower(config.text),
        vocabulary_size=config.text.vocab_size,
        embedding_dim=config.text.width,
        max_sequence_length=config.text.context_length,
        projection_dim=config.text.output_width,
    )
    return SigLIPBackbone(vision, text, dtype=precision)
