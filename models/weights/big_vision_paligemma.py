"""big_vision's PaliGemma .npz checkpoints: the image tower under `img/`, Gemma under `llm/` with its layers stacked.

Reference: big_vision `models/proj/paligemma/paligemma.py` and `models/ppp/gemma.py`.

There is no configuration: the shapes tell it, but for what leaves no trace in them.
"""

import math
from pathlib import Path

import numpy as np

from diptych.core.weights.files import WeightFiles
from diptych.core.weights.mapping import LEADING_AXIS, SAME, Arrays, Layout, Rule, Table, heads_in, stacked_layers
from diptych.core.weights.npz import write_npz
from diptych.models.gemma.config import GemmaConfig
from diptych.models.gemma.presets import PRESETS
from diptych.models.paligemma.config import PaliGemmaConfig
from diptych.models.siglip.config import VisionConfig
from diptych.models.weights import big_vision

EMBEDDER = "llm/embedder/input_embedding"
_LAYERS = "llm/layers"
_JOINED, _QUERY, _KEY_VALUE = (f"{_LAYERS}/attn/{part}_einsum/w" for part in ("qkv", "q", "kv"))
SCALES = (("attention_norm", "pre_attention_norm"), ("mlp_norm", "pre_ffw_norm"))
POST_SCALES = (("attention_post_norm", "post_attention_norm"), ("mlp_post_norm", "post_ffw_norm"))


def is_paligemma(files: WeightFiles) -> bool:
    """Whether an archive holds one."""
    return EMBEDDER in files.shapes or big_vision.PREFIX + EMBEDDER in files.shapes


def config_of(files: WeightFiles) -> PaliGemmaConfig:
    """The configuration that a checkpoint's shapes belong to.

    Of Gemma 2, which is told by its norms, the caps are the published; 27B, told by its width, divides queries by the
    root of width / heads.
    """
    shapes = {name.removeprefix(big_vision.PREFIX): shape for name, shape in files.shapes.items()}
    kernel, positions = shapes["img/embedding/kernel"], shapes["img/pos_embedding"]
    vision = VisionConfig(
        **big_vision.tower_sizes(shapes, big_vision.IMAGE),
        patch_size=kernel[0],
        image_size=math.isqrt(positions[1]) * kernel[0],
        pooling="gap",
    )
    rows, width = shapes[EMBEDDER]
    if _JOINED in shapes:
        depth, _, heads, _, head_dim = shapes[_JOINED]
        groups = heads
    else:
        depth, heads, _, head_dim = shapes[_QUERY]
        groups = shapes[_KEY_VALUE][2]
    gemma2 = f"{_LAYERS}/post_ffw_norm/scale" in shapes
    published = PRESETS["gemma2_27b"]
    text = GemmaConfig(
        width=width,
        depth=depth,
        mlp_dim=shapes[f"{_LAYERS}/mlp/linear"][1],
        num_heads=heads,
        num_key_value_heads=groups,
        head_dim=head_dim,
        vocab_size=rows,
        query_width=published.query_width if gemma2 and width == published.width else None,
        post_norms=gemma2,
        attention_soft_cap=published.attention_soft_cap if gemma2 else None,
        logits_soft_cap=published.logits_soft_cap if gemma2 else None,
    )
    return PaliGemmaConfig(vision=vision, text=text)


def table(config: PaliGemmaConfig, files: WeightFiles | None = None) -> Table:
    """Our names and big_vision's, as the files have them; without files, all stacked under `params/`."""
    stacked = [f"{big_vision.PREFIX}{big_vision.IMAGE}/encoderblock/", big_vision.PREFIX]
    names = stacked if files is None else list(files.shapes)
    prefix = big_vision.PREFIX if any(name.startswith(big_vision.PREFIX) for name in names) else ""
    vision, text = config.vision, config.text
    joined = text.num_heads == text.num_key_value_heads
    blocks = [f"decoder/block_{layer:02d}" for layer in range(text.depth)]

    def of_all(part: str) -> list[str]:
        return [f"{block}/{part}" for block in blocks]

    scales = SCALES + (POST_SCALES if text.post_norms else ())
    rules = [
        Rule("image/patch_embedding/kernel", "img/embedding/kernel"),
        Rule("image/patch_embedding/bias", "img/embedding/bias"),
        Rule("image/position_embedding/embedding", "img/pos_embedding", LEADING_AXIS),
        *big_vision.encoder_rules("image/encoder", big_vision.IMAGE, vision.depth, vision.num_heads, names, prefix),
        Rule("projector/kernel", "img/head/kernel"),
        Rule("projector/bias", "img/head/bias"),
        Rule("decoder/token_embedding/embedding", EMBEDDER),
        Rule(
            of_all("attention/qkv_kernel"),
            _JOINED if joined else (_QUERY, _KEY_VALUE),
            stacked_layers(decoder_heads(text)),
        ),
        Rule(
            of_all("attention/out_kernel"),
            f"{_LAYERS}/attn/attn_vec_einsum/w",
            stacked_layers(heads_in(text.num_heads)),
        ),
        Rule(
            [f"{block}/mlp/{part}_kernel" for block in blocks for part in ("gate", "in")],
            f"{_LAYERS}/mlp/gating_einsum",
            _GATES,
        ),
        Rule(of_all("mlp/out_kernel"), f"{_LAYERS}/mlp/linear", stacked_layers(SAME)),
        *(Rule(of_all(f"{ours}/scale"), f"{_LAYERS}/{theirs}/scale", stacked_layers(SAME)) for ours, theirs in scales),
        Rule("decoder/norm/scale", "llm/final_norm/scale"),
    ]
    return Table([Rule(rule.ours, [prefix + name for name in rule.theirs], rule.layout) for rule in rules])


def write(folder: Path, config: PaliGemmaConfig, arrays: Arrays) -> None:
    """Writes one .npz file, `weights.npz`.

    Raises:
        ValueError: for a model that could not be told from its shapes again.
    """
    if not isinstance(config.vision, VisionConfig) or config.text.predicted_ids is not None:
        raise ValueError(
            "big_vision's PaliGemma has square images and a table without rows that stand for nothing. Save this one "
            'with format="diptych".'
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_npz(folder / big_vision.FILE, table(config).save(arrays))


def decoder_heads(text: GemmaConfig) -> Layout:
    """Kernels [heads, width, head size] of queries, [2, heads, width, head size] of keys and values, or all three in
    one, or each by itself, and one kernel [width, heads of all · head size].
    """
    counts = (text.num_heads, text.num_key_value_heads, text.num_key_value_heads)

    def to_ours(arrays: list[np.ndarray]) -> list[np.ndarray]:
        heads = np.concatenate([array.reshape(-1, *array.shape[-2:]) for array in arrays])
        return [heads.transpose(1, 0, 2).reshape(heads.shape[1], -1)]

    def to_theirs(arrays: list[np.ndarray], count: int) -> list[np.ndarray]:
        heads = arrays[0].reshape(len(arrays[0]), sum(counts), -1).transpose(1, 0, 2)
        if count == 1:
            return [heads.reshape(3, -1, *heads.shape[1:])]
        if count == 3:
            return np.split(heads, np.cumsum(counts)[:-1])
        return [heads[: counts[0]], heads[counts[0] :].reshape(2, -1, *heads.shape[1:])]

    return Layout(to_ours, to_theirs)


_GATES = Layout(
    lambda arrays: [part for layer in arrays[0] for part in layer],
    lambda arrays, _: [np.stack(arrays).reshape(-1, 2, *arrays[0].shape)],
)
"""[layers, 2, width, mlp_dim] of gates and of what they scale, and two kernels a layer."""
