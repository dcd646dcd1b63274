"""The costs of a PaliGemma before it is built: operations and memory, for answering and for training, by arithmetic.

Letters: n tokens of an example's pictures, T of its text, S = n + T, d width, m mlp_dim, L depth, N and K heads of
queries and of keys, h head_dim, V predicted tokens. A multiply-add counts as two operations.
"""

from typing import Literal

from diptych.models.counting import count_tower_flops, tower_activation_bytes
from diptych.models.gemma.config import GemmaConfig
from diptych.models.paligemma.config import PaliGemmaConfig, count_paligemma_parameters

FLOAT32_BYTES = 4
BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}
"""Of a weight that is only read. int8 is what kernels take with a scale for each output, which counts as nothing."""
TOKENS_PER_CHUNK = 1_024
Trained = Literal["all", "attention"]


def count_paligemma_flops(config: PaliGemmaConfig, *, text_length: int, pictures: int = 1) -> dict[str, int]:
    """Floating-point operations of an example.

    Args:
        text_length: T, prompt and answer.

    Returns:
        "image", "projector", "text": of a forward pass, that of Gemma's blocks over all S tokens being 2 S times their
        kernels and 4 L N h S² of attention; "logits": 2 T d V, of text alone; "forward": these together; "training":
        three times as much; "training_rematerialized": four times; "token": of one more token of an answer.
    """
    text, tokens = config.text, config.vision.num_patches * pictures
    length = tokens + text_length
    parts = {
        "image": pictures * count_tower_flops(config.vision),
        "projector": 2 * tokens * config.vision.width * text.width,
        "text": 2 * length * _kernels(text) + 4 * text.depth * text.num_heads * text.head_dim * length**2,
        "logits": 2 * text_length * text.width * text.num_predicted,
    }
    forward = sum(parts.values())
    attention = 4 * text.depth * text.num_heads * text.head_dim * length
    return {
        **parts,
        "forward": forward,
        "training": 3 * forward,
        "training_rematerialized": 4 * forward,
        "token": 2 * _kernels(text) + attention + 2 * text.width * text.num_predicted,
    }


def cache_bytes_per_token(config: PaliGemmaConfig, *, dtype: str = "bfloat16") -> int:
    """Of keys and values: 2 L K h values."""
    text = config.text
    return 2 * text.depth * text.num_key_value_heads * text.head_dim * BYTES[dtype]


def answering_memory(
    config: PaliGemmaConfig, *, dtype: str, text_length: int, batch_size: int = 1, pictures: int = 1
) -> dict[str, int]:
    """Bytes of a model that answers.

    Args:
        dtype: of the weights, "float32", "bfloat16" or "int8"; with int8 all else is bfloat16.
        text_length: prompt and answer.

    Returns:
        "weights", "caches", "activations" (the scores of one block's attention over pictures and text, of which there
        are a float32 and a rounded copy) and their "total".
    """
    computed = "bfloat16" if dtype == "int8" else dtype
    length = config.vision.num_patches * pictures + text_length
    scores = max(config.text.num_heads * length**2, config.vision.num_heads * config.vision.num_patches**2 * pictures)
    parts = {
        "weights": BYTES[dtype] * count_paligemma_parameters(config)["total"],
        "caches": batch_size * length * cache_bytes_per_token(config, dtype=computed),
        "activations": batch_size * scores * (FLOAT32_BYTES + BYTES[computed]),
    }
    return {**parts, "total": sum(parts.values())}


def training_memory(
    config: PaliGemmaConfig,
    *,
    text_length: int,
    batch_size: int = 1,
    pictures: int = 1,
    trained: Trained = "all",
    optimizer_slots: float = 2,
    frozen_dtype: str = "float32",
    image_trained: bool | None = None,
    rematerialize: bool = True,
) -> dict[str, int]:
    """Bytes of a training step on one device, in float32.

    Args:
        trained: "all", or "attention" for the kernels of attention in Gemma's blocks, which big_vision trains on cards
            of 16 GB.
        optimizer_slots: values that an optimizer keeps of each trained weight: AdamW 2, SGD without momentum 0.
        frozen_dtype: of the weights that are not trained.
        image_trained: whether the image tower keeps activations; by default where all is trained.
        rematerialize: whether blocks are computed again in the backward pass.

    Returns:
        "weights", "gradients", "optimizer", "activations" and their "total". Activations are the inputs of all blocks
        and one block whole, or without rematerialisation all blocks whole, and the logits of a chunk with their
        gradient; what single operations need for a moment comes on top.
    """
    total = count_paligemma_parameters(config)["total"]
    moving = total if trained == "all" else attention_parameters(config.text)
    length = config.vision.num_patches * pictures + text_length
    text = config.text
    block = length * (2 * text.num_heads + 2 * text.num_key_value_heads) * text.head_dim
    block += length * (3 * text.mlp_dim + 4 * text.width) + 2 * text.num_heads * length**2
    image = pictures * tower_activation_bytes(
        config.vision, compute_bytes=FLOAT32_BYTES, rematerialize=rematerialize, fused_attention=False
    )
    decoder = FLOAT32_BYTES * (text.depth * (length * text.width if rematerialize else block) + block * rematerialize)
    seen = trained == "all" if image_trained is None else image_trained
    chunk = 2 * FLOAT32_BYTES * min(TOKENS_PER_CHUNK, batch_size * text_length) * text.num_predicted
    parts = {
        "weights": FLOAT32_BYTES * moving + BYTES[frozen_dtype] * (total - moving),
        "gradients": FLOAT32_BYTES * moving,
        "optimizer": round(FLOAT32_BYTES * optimizer_slots * moving),
        "activations": batch_size * (decoder + (image if seen else 0)) + chunk,
    }
    return {**parts, "total": sum(parts.values())}


def attention_parameters(config: GemmaConfig) -> int:
    """2 L d (N + K) h."""
    heads = config.num_heads + config.num_key_value_heads
    return 2 * config.depth * config.width * heads * config.head_dim


def _kernels(config: GemmaConfig) -> int:
    """The values of all blocks' kernels."""
    return attention_parameters(config) + 3 * config.depth * config.width * config.mlp_dim
