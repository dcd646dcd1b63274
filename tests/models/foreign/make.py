"""The maker of the checkpoints in this folder.

`pip install keras-hub open_clip_torch`, then `python -m tests.models.foreign.make`.

The libraries need gigabytes of dependencies, so tests read what they wrote here: keras-hub 0.32.0, open_clip 3.3.0 with
timm 1.0.31. timm's towers of sizes B and L compute GELU exactly, where the weights were trained with its tanh
approximation; the tower here has the approximation, as timm's larger ones do.
"""

import json
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent
TEXT = {"context_length": 8, "vocab_size": 40, "width": 32, "heads": 2, "layers": 2, "mlp_ratio": 2.0}
SIGLIP_TEXT = TEXT | {
    "no_causal_mask": True,
    "proj_bias": True,
    "pool_type": "last",
    "norm_kwargs": {"eps": 1e-6},
    "act_kwargs": {"approximate": "tanh"},
}
TOWER = {"embed_dim": 32, "depth": 1, "num_heads": 2, "mlp_ratio": 4, "num_classes": 0, "act_layer": "gelu_tanh"}


def make_keras_hub() -> None:
    """A SigLIPBackbone preset; the expected logits are [images, texts]."""
    import keras
    from keras_hub.models import SigLIPBackbone, SigLIPTextEncoder, SigLIPVisionEncoder

    vision = SigLIPVisionEncoder(
        patch_size=4, hidden_dim=16, num_layers=2, num_heads=2, intermediate_dim=24, image_shape=(16, 16, 3)
    )
    text = SigLIPTextEncoder(
        vocabulary_size=40,
        embedding_dim=12,
        hidden_dim=12,
        num_layers=2,
        num_heads=2,
        intermediate_dim=20,
        max_sequence_length=8,
        projection_dim=16,
    )
    model, rng = SigLIPBackbone(vision, text), np.random.default_rng(0)
    for weight in model.weights:
        if "position_ids" not in weight.path:
            weight.assign(0.3 * rng.standard_normal(weight.shape) + ("gamma" in weight.path))
    model.save_to_preset(FOLDER / "keras_hub")
    batch = {"images": _images(rng), "token_ids": _ids(rng)}
    logits = keras.ops.convert_to_numpy(model(batch)["vision_logits"])
    np.savez(FOLDER / "keras_hub" / "expected.npz", **batch, logits=logits)


def make_keras_hub_paligemma() -> None:
    """A PaliGemmaBackbone preset of the second generation, and its features [texts, image tokens + length, width]."""
    import keras
    from keras_hub.models import PaliGemmaBackbone

    model = PaliGemmaBackbone(
        vocabulary_size=40,
        image_size=8,
        num_layers=2,
        num_query_heads=4,
        num_key_value_heads=2,
        hidden_dim=12,
        intermediate_dim=40,
        head_dim=4,
        vit_patch_size=4,
        vit_num_heads=2,
        vit_hidden_dim=8,
        vit_num_layers=2,
        vit_intermediate_dim=12,
        vit_pooling=None,
        vit_num_classes=12,
        use_post_ffw_norm=True,
        use_post_attention_norm=True,
        attention_logit_soft_cap=2.0,
        final_logit_soft_cap=30.0,
    )
    rng = np.random.default_rng(2)
    for weight in model.weights:
        weight.assign(0.3 * rng.standard_normal(weight.shape) + ("gamma" in weight.path))
    model.save_to_preset(FOLDER / "keras_hub_paligemma")
    batch = {
        "images": rng.uniform(-1, 1, (2, 8, 8, 3)).astype("float32"),
        "token_ids": rng.integers(3, 40, (2, 6)).astype("int32"),
        "response_mask": np.array([[0, 0, 0, 0, 1, 1], [0, 0, 1, 1, 1, 1]], "int32"),
        "padding_mask": np.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0]], "int32"),
    }
    features = keras.ops.convert_to_numpy(model(batch))
    np.savez(FOLDER / "keras_hub_paligemma" / "expected.npz", **batch, features=features)


def make_open_clip(name: str, fields: dict, trunk=None) -> None:
    """A CLIP or SigLIP of open_clip; `trunk` replaces timm's tower, of which there is none so small."""
    import torch
    from open_clip.model import CLIP, CustomTextCLIP
    from safetensors.torch import save_file

    rng = np.random.default_rng(1)
    given = {key: value for key, value in fields.items() if key != "custom_text"}
    model = (CustomTextCLIP if fields.get("custom_text") else CLIP)(**given, output_dict=True).eval()
    if trunk is not None:
        model.visual.trunk = trunk
    with torch.no_grad():
        for path, value in model.named_parameters():
            around = 1.0 if "norm" in path or ".ln" in path or "ln_" in path else 0.0
            drawn = 0.3 * rng.standard_normal(value.shape) + around * path.endswith("weight")
            value.copy_(torch.from_numpy(np.asarray({"logit_scale": 1.5, "logit_bias": -1.0}.get(path, drawn))))
        batch = {"token_ids": _ids(rng)}
        if "naflex" in name:
            batch |= {"patches": rng.uniform(-1, 1, (3, 12, 48)).astype("float32")}
            batch |= {"spatial_shapes": np.array([[3, 4], [1, 7], [5, 2]], "int32")}
            images = _timm_patches(batch)
        else:
            batch["images"] = _images(rng)
            images = torch.from_numpy(batch["images"].transpose(0, 3, 1, 2).copy())
        expected = {
            "image_embedding": model.encode_image(images, normalize=True).numpy(),
            "text_embedding": model.encode_text(
                torch.from_numpy(batch["token_ids"].astype("int64")), normalize=True
            ).numpy(),
        }
    folder = FOLDER / name
    folder.mkdir(exist_ok=True)
    save_file(
        {path: value.contiguous() for path, value in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": fields}, indent=2))
    np.savez(folder / "expected.npz", **batch, **expected)


def _timm_patches(batch: dict) -> dict:
    import torch

    index, shapes = np.arange(batch["patches"].shape[1]), batch["spatial_shapes"]
    places = np.stack([np.stack([index // columns, index % columns], axis=-1) for _, columns in shapes])
    exists = index < shapes.prod(axis=1)[:, None]
    places *= exists[:, :, None]  # timm takes the grid's size from the largest coordinate
    arrays = {"patches": batch["patches"], "patch_coord": places, "patch_valid": exists}
    return {key: torch.from_numpy(value) for key, value in arrays.items()}


def _images(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(-1, 1, (3, 16, 16, 3)).astype("float32")


def _ids(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 40, (3, 8)).astype("int32")


def main() -> None:
    """Writes all of them."""
    from timm.models.naflexvit import NaFlexVit, NaFlexVitCfg
    from timm.models.vision_transformer import VisionTransformer

    make_keras_hub()
    make_keras_hub_paligemma()
    timm = {"timm_model_name": "vit_base_patch16_siglip_224", "timm_pool": "map", "timm_proj": "none", "image_size": 16}
    siglip = {"embed_dim": 32, "init_logit_bias": -10, "custom_text": True, "vision_cfg": timm, "text_cfg": SIGLIP_TEXT}
    trunk = VisionTransformer(img_size=16, patch_size=4, class_token=False, global_pool="map", **TOWER)
    make_open_clip("open_clip_siglip", siglip, trunk)
    naflex = NaFlexVit(
        NaFlexVitCfg(
            patch_size=4,
            pos_embed_grid_size=(4, 4),
            pos_embed_interp_mode="bilinear",
            **{key: value for key, value in TOWER.items() if key != "num_classes"},
        ),
        num_classes=0,
    )
    timm = {"timm_model_name": "vit_base_patch16_siglip_224", "timm_pool": "map", "timm_proj": "none"}
    make_open_clip("open_clip_naflex", siglip | {"vision_cfg": timm}, naflex)
    tower = {"image_size": 16, "layers": 2, "width": 32, "head_width": 16, "patch_size": 4, "mlp_ratio": 2.0}
    make_open_clip("open_clip_clip", {"embed_dim": 20, "quick_gelu": True, "vision_cfg": tower, "text_cfg": TEXT})


if __name__ == "__main__":
    main()
