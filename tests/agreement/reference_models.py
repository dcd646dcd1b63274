"""Models of Hugging Face transformers with random weights, nothing at zero or one, to compare with."""

from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from tests.agreement.strategies import WIDTHS_AND_HEADS

KINDS = ("siglip", "siglip2", "clip")
LENGTH, IMAGES = 8, 4


@st.composite
def reference_configs(draw, kind: str) -> dict:
    """The fields of a transformers `config.json`, some of them left to their defaults."""

    def tower():
        width, heads = draw(st.sampled_from([size for size in WIDTHS_AND_HEADS if size[0] >= 16]))
        return {
            "hidden_size": width,
            "num_attention_heads": heads,
            "intermediate_size": draw(st.sampled_from([24, 33, 80])),
            "num_hidden_layers": draw(st.integers(1, 2)),
        }

    vision, text = tower(), tower()
    vision["patch_size"] = draw(st.sampled_from([4, 5]))
    if kind == "siglip2":
        vision["num_patches"] = draw(st.sampled_from([4, 16, 25]))
    else:
        vision["image_size"] = draw(st.sampled_from([12, 23]))
    text |= {"vocab_size": draw(st.sampled_from([20, 97])), "max_position_embeddings": LENGTH}
    text |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    fields = {"model_type": kind, "vision_config": vision, "text_config": text}
    if kind == "clip":
        fields["projection_dim"] = draw(st.sampled_from([8, 20]))
        text["eos_token_id"] = draw(st.sampled_from([2, text["vocab_size"] - 1]))
    else:
        text["projection_size"] = vision["hidden_size"]
    return fields


def build_reference(fields: dict, seed: int):
    """A torch model; norms' scales lie around one, all else around zero, and the logits are far from saturation."""
    import torch
    from transformers import AutoModel, CLIPConfig, Siglip2Config, SiglipConfig

    kinds = {"siglip": SiglipConfig, "siglip2": Siglip2Config, "clip": CLIPConfig}
    given = {key: value for key, value in fields.items() if key != "model_type"}
    model = AutoModel.from_config(kinds[fields["model_type"]](**given), attn_implementation="eager").eval()
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            drawn = 0.3 * rng.standard_normal(value.shape) / max(1, value.shape[-1] if value.ndim > 1 else 1) ** 0.25
            if "norm" in name and name.endswith("weight"):
                drawn = 1 + drawn
            if name in ("logit_scale", "logit_bias"):
                drawn = np.full(value.shape, {"logit_scale": 1.5, "logit_bias": -1.3}[name])
            value.copy_(torch.from_numpy(np.asarray(drawn, np.float32)))
    return model


def draw_batch(fields: dict, seed: int) -> dict[str, np.ndarray]:
    """What our model takes: images or patches of different grids, and token ids with one end-of-text."""
    rng = np.random.default_rng(seed)
    vision, text = fields["vision_config"], fields["text_config"]
    ids = rng.integers(3, text["vocab_size"] - 1, (IMAGES, LENGTH))
    for row, end in enumerate(rng.integers(2, LENGTH, IMAGES)):
        ids[row, end] = text["vocab_size"] - 1 if fields["model_type"] == "clip" else text["eos_token_id"]
        ids[row, end + 1 :] = text["pad_token_id"]
    batch = {"token_ids": ids.astype(np.int32)}
    if fields["model_type"] == "siglip2":
        shapes = np.array([[3, 4], [1, 7], [5, 2], [2, 2]], np.int32)
        patches = rng.uniform(-1, 1, (IMAGES, 13, vision["patch_size"] ** 2 * 3)).astype(np.float32)
        for row, (rows, columns) in enumerate(shapes):
            patches[row, rows * columns :] = 0
        return batch | {"patches": patches, "spatial_shapes": shapes}
    side = vision["image_size"]
    return batch | {"images": rng.uniform(-1, 1, (IMAGES, side, side, 3)).astype(np.float32)}


def reference_answer(model, batch: dict[str, np.ndarray]) -> dict:
    """Outputs and loss of the torch model, and its gradients by its own names."""
    import torch

    ids = torch.from_numpy(batch["token_ids"].astype(np.int64))
    if "patches" in batch:
        rows, columns = batch["spatial_shapes"].T
        mask = np.arange(batch["patches"].shape[1]) < (rows * columns)[:, None]
        images = {
            "pixel_values": torch.from_numpy(batch["patches"]),
            "pixel_attention_mask": torch.from_numpy(mask.astype(np.int32)),
            "spatial_shapes": torch.from_numpy(batch["spatial_shapes"].astype(np.int64)),
        }
    else:
        images = {"pixel_values": torch.from_numpy(batch["images"].transpose(0, 3, 1, 2).copy())}
    model.zero_grad()
    out = model(input_ids=ids, **images, return_loss=True)
    out.loss.backward()
    tokens = out.vision_model_output.last_hidden_state
    if hasattr(model.vision_model, "pre_layrnorm"):
        tokens = model.vision_model.post_layernorm(tokens)  # CLIP's are handed out before it there, and after it here
    return {
        "image_embedding": out.image_embeds.detach().numpy(),
        "text_embedding": out.text_embeds.detach().numpy(),
        "image_tokens": tokens.detach().numpy(),
        "text_tokens": out.text_model_output.last_hidden_state.detach().numpy(),
        "logits": out.logits_per_image.detach().numpy(),
        "loss": out.loss.item(),
        "gradients": {name: value.grad.numpy() for name, value in model.named_parameters()},
    }


def save_reference(model, folder: Path) -> None:
    """Writes what `save_pretrained` writes."""
    model.save_pretrained(folder)
