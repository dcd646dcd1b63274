"""Fine-tuning by recipe: three steps leave the weights that transformers and torch's AdamW leave, on every backend."""

from pathlib import Path

import numpy as np
import pytest

from diptych.core.data.emoji import TOKENIZER_PATH
from diptych.core.data.examples.naflex import NaFlex
from diptych.core.data.pixels import CLIP_MEAN, CLIP_STD, FixedSize, Normalization
from diptych.core.data.processor.processor import Processor
from diptych.core.data.tokenizers.clip_bpe import ClipTokenizer, released_vocabulary
from diptych.core.data.tokenizers.open import open_tokenizer
from diptych.models.weights import transformers, transformers_fields
from tests.recipes.photos import write_photos

pytest.importorskip("transformers", reason="transformers is not installed")

from tests.agreement.reference_models import build_reference, save_reference
from tests.memory_weights import MemoryWeights

RATE, DECAY, CLIP_NORM = 1e-3, 1e-3, 0.5
TOLERANCE = 1e-5
ROUNDING = 1e-6
"""Of a gradient, as a share of the model's largest: what float32 sums of other orders differ by."""
NEVER_DECAYED = ("token_embedding", "position_embedding", "probe")
TOWER = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "num_hidden_layers": 1}
SIGLIP_TEXT = {**TOWER, "vocab_size": 8_000, "max_position_embeddings": 8, "projection_size": 16}
FIELDS = {
    "siglip": {"vision_config": {**TOWER, "patch_size": 4, "image_size": 16}, "text_config": SIGLIP_TEXT},
    "siglip2": {"vision_config": {**TOWER, "patch_size": 4, "num_patches": 16}, "text_config": SIGLIP_TEXT},
    "clip": {
        "vision_config": {**TOWER, "patch_size": 4, "image_size": 16},
        "text_config": {**TOWER, "vocab_size": 514, "max_position_embeddings": 8, "eos_token_id": 513},
        "projection_dim": 12,
    },
}
OWN = Normalization(mean=CLIP_MEAN, std=CLIP_STD)
PIXELS = {
    "siglip": FixedSize(height=16, width=16),
    "siglip2": NaFlex(patch_size=4, max_num_patches=16),
    "clip": FixedSize(height=16, width=16, resize="bicubic_antialias", shortest_edge=18, normalization=OWN),
}
FLAGS = {"siglip": (), "siglip2": ("--sequence-lengths", "12", "--examples", "16"), "clip": ()}


def checkpoint(kind: str, folder: Path):
    """A folder of transformers with random weights and a processor, and transformers' model of it."""
    special = {"bos_token_id": 1, "pad_token_id": 0} | ({} if kind == "clip" else {"eos_token_id": 2})
    fields = {"model_type": kind, **FIELDS[kind]}
    fields["text_config"] = {**special, **fields["text_config"]}
    model = build_reference(fields, seed=3)
    save_reference(model, folder)
    tokenizer = ClipTokenizer(released_vocabulary([]), []) if kind == "clip" else open_tokenizer(TOKENIZER_PATH)
    Processor(pixels=PIXELS[kind], tokenizer=tokenizer, context_length=8).save_to_preset(folder, "diptych")
    return model, transformers_fields.config_of(fields, folder)


def inputs_of(batch: dict, kind: str) -> dict:
    """What transformers' model takes of a batch's bytes."""
    import torch

    found = {"input_ids": torch.from_numpy(batch["text"].astype(np.int64))}
    if kind == "siglip2":
        places = np.arange(batch["patches"].shape[1]) < batch["spatial_shapes"].prod(axis=1)[:, None]
        return found | {
            "pixel_values": torch.from_numpy(batch["patches"] / np.float32(127.5) - 1),
            "pixel_attention_mask": torch.from_numpy(places.astype(np.int32)),
            "spatial_shapes": torch.from_numpy(batch["spatial_shapes"].astype(np.int64)),
        }
    pixels = batch["image"].astype(np.float32) / 255
    mean, std = (CLIP_MEAN, CLIP_STD) if kind == "clip" else ((0.5,) * 3, (0.5,) * 3)
    pixels = (pixels - np.float32(mean)) / np.float32(std)
    return found | {"pixel_values": torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())}


def values_of(model) -> dict[str, np.ndarray]:
    """A copy of its weights."""
    return {name: value.detach().numpy().copy() for name, value in model.named_parameters()}


def tune(model, batches: list[dict], rates: list[float], kind: str) -> dict[str, np.ndarray]:
    """Trains transformers' model by torch's AdamW; returns how far roundings of the gradients may move each weight."""
    import torch

    named = dict(model.named_parameters())
    decays = {name: value.ndim > 1 and not any(part in name for part in NEVER_DECAYED) for name, value in named.items()}
    groups = [
        {"params": [named[name] for name in named if decays[name] == decayed], "weight_decay": decay}
        for decayed, decay in ((True, DECAY / RATE), (False, 0.0))
    ]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95), eps=1e-8)
    slack = {name: np.zeros(value.shape) for name, value in named.items()}
    for batch, rate in zip(batches, rates, strict=True):
        optimizer.zero_grad()
        model(**inputs_of(batch, kind), return_loss=True).loss.backward()
        torch.nn.utils.clip_grad_norm_(named.values(), CLIP_NORM)
        largest = max(float(value.grad.abs().max()) for value in named.values())
        for name, value in named.items():
            size = value.grad.abs().numpy()
            slack[name] += 2 * rate * np.minimum(1, ROUNDING * largest / np.maximum(size, 1e-30)) * (size > 0)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
    return slack


@pytest.mark.parametrize("kind", ["siglip", "siglip2", "clip"])
def test_three_steps_leave_the_weights_of_transformers_and_torch(pool, tmp_path, kind):
    model, config = checkpoint(kind, tmp_path / "checkpoint")
    photos = write_photos(tmp_path / "photos", 40)
    flags = [
        "--examples",
        "24",
        "--batch-size",
        "8",
        "--learning-rate",
        str(RATE),
        "--weight-decay",
        str(DECAY),
        "--warmup-examples",
        "0",
    ]
    flags += ["--grad-clip-norm", str(CLIP_NORM), "--val-fraction", "0.3", *FLAGS[kind]]
    shared = {"checkpoint": str(tmp_path / "checkpoint"), "photos": str(photos), "flags": flags}
    own = {name: {"arguments": shared | {"folder": str(tmp_path / name)}} for name in pool.backends}
    replies = pool.ask("call", module="tests.agreement.recipe_side", function="fine_tune", own=own)
    first = next(iter(replies.values()))
    assert len(first["batches"]) >= 3
    begun = values_of(model)
    slack = tune(model, first["batches"], first["rates"], kind)
    table = transformers.table(config)
    before, wanted, allowed = (dict(table.load(MemoryWeights(x))) for x in (begun, values_of(model), slack))
    for backend, reply in replies.items():
        path, off = furthest(reply["weights"], wanted, allowed)
        assert off <= TOLERANCE, f"{backend}: {path} is off by {off:.2e}"
    assert all(np.abs(value - before[path]).max() > 10 * TOLERANCE for path, value in wanted.items())
    wrong, _ = checkpoint(kind, tmp_path / "again")
    tune(wrong, first["batches"][::-1], first["rates"], kind)
    assert furthest(first["weights"], dict(table.load(MemoryWeights(values_of(wrong)))), allowed)[1] > 10 * TOLERANCE


def furthest(got: dict, wanted: dict, allowed: dict) -> tuple[str, float]:
    """The weight that lies furthest from where it should be, and how far beyond what roundings explain."""
    assert got.keys() == wanted.keys()
    off = {path: float((np.abs(got[path] - value) - allowed[path]).max()) for path, value in wanted.items()}
    return max(off.items(), key=lambda item: item[1])
