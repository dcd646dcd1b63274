"""Gemma and PaliGemma of Hugging Face transformers 5.24 with random weights, to compare with.

That release takes from `token_type_ids` what is prefix, scales tokens inside the embedding, and caps Gemma 2's logits
also under PaliGemma; earlier ones differ in each of the three.
"""

from pathlib import Path

import numpy as np

VOCABULARY, IMAGE_TOKEN, IMAGE_TOKENS, LENGTH = 320, 320, 4, 11
ROWS = ((11, 5, False), (7, 4, False), (9, 2, True), (6, 3, True))
"""Of a batch: the length of a text, that of its prefix, and whether its padding is in front."""
_TEXT = {
    "hidden_size": 48, "num_hidden_layers": 2, "intermediate_size": 96, "num_attention_heads": 4, "head_dim": 16,
    "vocab_size": VOCABULARY, "max_position_embeddings": 128,
}  # fmt: skip
TEXTS = {
    "gemma": {**_TEXT, "model_type": "gemma", "num_key_value_heads": 1},
    "gemma2": {
        **_TEXT, "model_type": "gemma2", "num_key_value_heads": 2, "query_pre_attn_scalar": 24, "sliding_window": 4,
        "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0,
    },
}  # fmt: skip
_VISION = {
    "model_type": "siglip_vision_model", "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48,
    "num_attention_heads": 4, "image_size": 28, "patch_size": 14, "vision_use_head": False, "projection_dim": 48,
}  # fmt: skip


def build_reference(kind: str, *, pictures: int, seed: int):
    """A torch model: a language model alone without pictures, else PaliGemma; its caps are low enough to bend."""
    import torch
    from transformers import (
        Gemma2Config,
        Gemma2ForCausalLM,
        GemmaConfig,
        GemmaForCausalLM,
        PaliGemmaConfig,
        PaliGemmaForConditionalGeneration,
    )

    fields = {key: value for key, value in TEXTS[kind].items() if key != "model_type"}
    if pictures:
        # A window wider than the sequence: PaliGemma was trained without one, and has none here.
        text = TEXTS[kind] | ({"sliding_window": 4_096} if kind == "gemma2" else {})
        config = PaliGemmaConfig(
            vision_config=_VISION, text_config=text, projection_dim=48, hidden_size=48, vocab_size=VOCABULARY,
            image_token_index=IMAGE_TOKEN,
        )  # fmt: skip
        model = PaliGemmaForConditionalGeneration._from_config(config, attn_implementation="eager")
    elif kind == "gemma":
        model = GemmaForCausalLM._from_config(GemmaConfig(**fields), attn_implementation="eager")
    else:
        model = Gemma2ForCausalLM._from_config(Gemma2Config(**fields), attn_implementation="eager")
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            drawn = 0.3 * rng.standard_normal(value.shape) / max(1, value.shape[-1] if value.ndim > 1 else 1) ** 0.25
            if "norm" in name and name.endswith("weight") and "vision_tower" in name:
                drawn = 1 + drawn  # Gemma's own are distances from one
            if name.endswith("embed_tokens.weight"):
                drawn /= 4  # else the likeliest token is always the last one again
            value.copy_(torch.from_numpy(np.asarray(drawn, np.float32)))
    return model.eval()


def draw_batch(*, pictures: int, seed: int, rows=ROWS) -> dict[str, np.ndarray]:
    """What our model takes, and "weights" of the tokens that are counted in the loss."""
    rng = np.random.default_rng(seed)
    ids, mask, suffix = (np.zeros((len(rows), LENGTH), kind) for kind in ("int32", bool, bool))
    for row, (length, prefix, in_front) in enumerate(rows):
        own = slice(LENGTH - length, LENGTH) if in_front else slice(0, length)
        ids[row, own] = rng.integers(3, VOCABULARY, length)
        mask[row, own] = True
        suffix[row, own] = np.arange(length) >= prefix
    batch = {"token_ids": ids, "token_mask": mask, "suffix_mask": suffix, "weights": suffix if pictures else mask}
    if pictures:
        shape = (len(rows), 28, 28, 3) if pictures == 1 else (len(rows), pictures, 28, 28, 3)
        batch["images"] = rng.uniform(-1, 1, shape).astype("float32")
    else:
        batch["weights"] = mask & np.roll(mask, 1, axis=1)  # the first token of a text is not predicted
        batch["weights"][:, 0] = False
    return batch


def reference_inputs(batch: dict[str, np.ndarray], *, pictures: int) -> dict:
    """The same for transformers, placeholders for pictures in front of the text and behind the padding."""
    import torch

    placeholders = pictures * IMAGE_TOKENS
    rows = {"input_ids": [], "attention_mask": [], "token_type_ids": [], "labels": []}
    for ids, mask, suffix, weights in zip(*(batch[n] for n in ("token_ids", "token_mask", "suffix_mask", "weights")),
                                          strict=True):  # fmt: skip
        front = int(np.argmax(mask))

        def placed(text, image, front=front):
            return np.concatenate([text[:front], np.full(placeholders, image), text[front:]])

        rows["input_ids"].append(placed(ids, IMAGE_TOKEN))
        rows["attention_mask"].append(placed(mask, 1))
        rows["token_type_ids"].append(placed(suffix & mask, 0))
        rows["labels"].append(placed(np.where(weights, ids, -100), -100))
    inputs = {name: torch.from_numpy(np.stack(value).astype("int64")) for name, value in rows.items()}
    if not pictures:
        return {name: value for name, value in inputs.items() if name != "token_type_ids"}
    images = batch["images"].reshape(-1, 28, 28, 3).transpose(0, 3, 1, 2).copy()
    return inputs | {"pixel_values": torch.from_numpy(images)}


def reference_answer(model, batch: dict[str, np.ndarray], *, pictures: int) -> dict:
    """Logits of the text's places `[counted tokens, vocabulary]`, loss, and gradients by transformers' names."""
    inputs = reference_inputs(batch, pictures=pictures)
    model.zero_grad()
    out = model(**inputs)
    out.loss.backward()
    text = (inputs["attention_mask"].numpy() == 1) & (inputs["input_ids"].numpy() != IMAGE_TOKEN)
    return {
        "logits": out.logits.detach().numpy()[text],
        "loss": out.loss.item(),
        "gradients": {name: value.grad.numpy() for name, value in model.named_parameters()},
    }


def reference_tokens(model, batch: dict[str, np.ndarray], *, pictures: int, steps: int) -> np.ndarray:
    """The likeliest tokens behind prompts that are padded in front, by transformers' own loop with its cache."""
    import torch

    inputs = reference_inputs(batch, pictures=pictures)
    del inputs["labels"]
    with torch.no_grad():
        found = model.generate(
            **inputs, max_new_tokens=steps, min_new_tokens=steps, do_sample=False, eos_token_id=None, pad_token_id=0
        )
    return found[:, -steps:].numpy()


def save_reference(model, folder: Path) -> None:
    """Writes what `save_pretrained` writes."""
    model.save_pretrained(folder)
