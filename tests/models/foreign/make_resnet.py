"""The maker of `open_clip_resnet`.

`pip install open_clip_torch`, then `python -m tests.models.foreign.make_resnet`.

A CLIP of open_clip 3.3.0 with its ResNet image tower. Every weight is drawn, the moving statistics of the norms too, so
that none can be left out or swapped; "expected.npz" holds what it computes in evaluation, and the pooled vectors and
moving statistics of one pass in training.
"""

import json

import numpy as np

from tests.models.foreign.make import FOLDER, TEXT

FIELDS = {
    "embed_dim": 20,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 64, "layers": [1, 2, 1, 1], "width": 4},
    "text_cfg": TEXT,
}


def main() -> None:
    """Writes the checkpoint and what comes out of it."""
    import torch
    from open_clip.model import CLIP
    from safetensors.torch import save_file

    rng = np.random.default_rng(2)
    model = CLIP(**FIELDS, output_dict=True).eval()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.dtype.is_floating_point:
                value.copy_(torch.from_numpy(np.asarray(_drawn(name, tuple(value.shape), rng))))
        pixels = rng.uniform(-1, 1, (2, 64, 64, 3)).astype("float32")
        token_ids = rng.integers(0, TEXT["vocab_size"], (2, TEXT["context_length"])).astype("int32")
        images = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
        expected = {
            "image_embedding": model.encode_image(images, normalize=True),
            "text_embedding": model.encode_text(torch.from_numpy(token_ids.astype("int64")), normalize=True),
            "pooled": model.visual(images),
        }
        folder = FOLDER / "open_clip_resnet"
        folder.mkdir(exist_ok=True)
        tensors = {name: value.clone().contiguous() for name, value in model.state_dict().items()}
        save_file(tensors, folder / "open_clip_model.safetensors")
        expected["pooled_in_training"] = model.visual.train()(images)
        for name, value in model.visual.state_dict().items():
            if "running_" in name:
                expected[f"visual.{name}"] = value
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": FIELDS}, indent=2) + "\n")
    arrays = {name: value.numpy() for name, value in expected.items()}
    np.savez(folder / "expected.npz", images=pixels, token_ids=token_ids, **arrays)


def _drawn(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray | float:
    if name == "logit_scale":
        return 1.5
    if name.endswith("running_var"):
        return rng.uniform(0.5, 2.0, shape)
    is_norm = name.endswith("weight") and (".bn" in name or "downsample.1" in name or "ln_" in name)
    return (1.0 if is_norm else 0.0) + 0.3 * rng.standard_normal(shape)


if __name__ == "__main__":
    main()
