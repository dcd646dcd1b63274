"""PaliGemma's archives by big_vision: stacked layers, in and out bit for bit, and what its einsums make of them."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from diptych.core.weights.npz import NpzFile, write_npz
from diptych.models import GemmaConfig, PaliGemma, PaliGemmaConfig
from diptych.models.siglip.config import VisionConfig
from tests.marks import ABOVE_THE_BACKENDS
from tests.models.examples import numpy_of

pytestmark = ABOVE_THE_BACKENDS

LAYERS, WIDTH, MLP, HEADS, SIZE, ROWS = 2, 12, 20, 4, 6, 30
KINDS = ("Gemma 1, as many heads of keys", "Gemma 2, fewer")
ATTENTION, BLOCK_MLP = "MultiHeadDotProductAttention_0", "MlpBlock_0"


def checkpoint(kind: str) -> tuple[PaliGemmaConfig, dict[str, np.ndarray]]:
    """A small one in bfloat16, and its configuration."""
    gemma2 = kind == KINDS[1]
    groups = 2 if gemma2 else HEADS
    image = {
        **{f"LayerNorm_{n}/{part}": (8,) for n in (0, 1) for part in ("scale", "bias")},
        **{f"{ATTENTION}/{part}/kernel": (8, 2, 4) for part in ("query", "key", "value")},
        **{f"{ATTENTION}/{part}/bias": (2, 4) for part in ("query", "key", "value")},
        f"{ATTENTION}/out/kernel": (2, 4, 8), f"{ATTENTION}/out/bias": (8,),
        f"{BLOCK_MLP}/Dense_0/kernel": (8, 16), f"{BLOCK_MLP}/Dense_0/bias": (16,),
        f"{BLOCK_MLP}/Dense_1/kernel": (16, 8), f"{BLOCK_MLP}/Dense_1/bias": (8,),
    }  # fmt: skip
    text = {
        "attn/attn_vec_einsum/w": (HEADS, SIZE, WIDTH), "mlp/gating_einsum": (2, WIDTH, MLP),
        "mlp/linear": (MLP, WIDTH), "pre_attention_norm/scale": (WIDTH,), "pre_ffw_norm/scale": (WIDTH,),
    }  # fmt: skip
    if gemma2:
        text |= {"attn/q_einsum/w": (HEADS, WIDTH, SIZE), "attn/kv_einsum/w": (2, groups, WIDTH, SIZE)}
        text |= {"post_attention_norm/scale": (WIDTH,), "post_ffw_norm/scale": (WIDTH,)}
    else:
        text["attn/qkv_einsum/w"] = (3, HEADS, WIDTH, SIZE)
    shapes = {
        "img/embedding/kernel": (4, 4, 3, 8), "img/embedding/bias": (8,), "img/pos_embedding": (1, 4, 8),
        "img/Transformer/encoder_norm/scale": (8,), "img/Transformer/encoder_norm/bias": (8,),
        "img/head/kernel": (8, WIDTH), "img/head/bias": (WIDTH,),
        "llm/embedder/input_embedding": (ROWS, WIDTH), "llm/final_norm/scale": (WIDTH,),
        **{f"img/Transformer/encoderblock/{name}": (LAYERS, *shape) for name, shape in image.items()},
        **{f"llm/layers/{name}": (LAYERS, *shape) for name, shape in text.items()},
    }  # fmt: skip
    config = PaliGemmaConfig(
        vision=VisionConfig(width=8, depth=2, mlp_dim=16, num_heads=2, patch_size=4, image_size=8, pooling="gap"),
        text=GemmaConfig(
            width=WIDTH,
            depth=LAYERS,
            mlp_dim=MLP,
            num_heads=HEADS,
            num_key_value_heads=groups,
            head_dim=SIZE,
            vocab_size=ROWS,
            post_norms=gemma2,
            attention_soft_cap=50.0 if gemma2 else None,
            logits_soft_cap=30.0 if gemma2 else None,
        ),
    )
    rng = np.random.default_rng(8)
    arrays = {f"params/{name}": rng.normal(0, 1, shape).astype(ml_dtypes.bfloat16) for name, shape in shapes.items()}
    return config, arrays


@pytest.mark.parametrize("kind", KINDS)
def test_archives_are_read_and_written_bit_for_bit(tmp_path, kind):
    config, arrays = checkpoint(kind)
    write_npz(tmp_path / "in.npz", arrays)
    model = PaliGemma.from_preset(tmp_path / "in.npz")
    assert model.config == config
    model.save_to_preset(tmp_path / "out", format="big_vision", dtype="bfloat16")
    with NpzFile(tmp_path / "out" / "weights.npz") as files:
        assert files.shapes.keys() == arrays.keys()
        for name, value in arrays.items():
            np.testing.assert_array_equal(files.read(name).view("u2"), value.view("u2"), err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_kernels_are_what_its_einsums_take_them_for(tmp_path, kind):
    """Keys before values, gates before what they scale (big_vision `models/ppp/gemma.py`)."""
    _, arrays = checkpoint(kind)
    write_npz(tmp_path / "in.npz", arrays)
    model = PaliGemma.from_preset(tmp_path / "in.npz")
    ours = {weight.path.removeprefix("decoder/block_01/"): numpy_of(weight.value) for weight in model.weights}
    theirs = {
        name.removeprefix("params/llm/layers/"): value.astype("float32")[1]
        for name, value in arrays.items()
        if "/layers/" in name
    }
    rng = np.random.default_rng(9)
    x, found = rng.normal(size=(3, WIDTH)).astype("float32"), rng.normal(size=(3, HEADS, SIZE)).astype("float32")
    if kind == KINDS[0]:
        parts = list(np.einsum("td,sndh->stnh", x, theirs["attn/qkv_einsum/w"]))
    else:
        parts = [np.einsum("td,ndh->tnh", x, theirs["attn/q_einsum/w"])]
        parts += list(np.einsum("td,ckdh->ctkh", x, theirs["attn/kv_einsum/w"]))
    close = {"rtol": 1e-5, "atol": 1e-5}
    expected = np.concatenate([part.reshape(3, -1) for part in parts], axis=1)
    np.testing.assert_allclose(x @ ours["attention/qkv_kernel"], expected, **close)
    expected = np.einsum("tnh,nhd->td", found, theirs["attn/attn_vec_einsum/w"])
    np.testing.assert_allclose(found.reshape(3, -1) @ ours["attention/out_kernel"], expected, **close)
    for part, value in {
        "mlp/gate_kernel": theirs["mlp/gating_einsum"][0],
        "mlp/in_kernel": theirs["mlp/gating_einsum"][1],
        "mlp/out_kernel": theirs["mlp/linear"],
        "mlp_norm/scale": theirs["pre_ffw_norm/scale"],
    }.items():
        np.testing.assert_array_equal(ours[part], value, err_msg=part)


def test_keras_hubs_presets_compute_what_they_do_there():
    """Written by keras-hub 0.32 (`tests/models/foreign/make.py`)."""
    folder = Path(__file__).parents[1] / "foreign" / "keras_hub_paligemma"
    model, expected = PaliGemma.from_preset(folder), dict(np.load(folder / "expected.npz"))
    count = expected["padding_mask"] == 1
    batch = {
        "images": expected["images"],
        "token_ids": expected["token_ids"],
        "token_mask": count,
        "suffix_mask": expected["response_mask"] == 1,
    }
    found = numpy_of(model(batch)["tokens"])
    np.testing.assert_allclose(found[count], expected["features"][:, -6:][count], rtol=2e-5, atol=2e-5)
    assert (model.config.text.attention_soft_cap, model.config.text.mlp_dim, model.config.text.query_width) == (
        2,
        20,
        None,
    )


def test_caps_and_divisors_are_the_published(tmp_path):
    """Of 27B by its width; its name says nothing, and the shapes say as little."""
    from diptych.models.gemma.presets import PRESETS
    from diptych.models.weights.big_vision_paligemma import config_of
    from tests.memory_weights import MemoryWeights

    for name, query_width in (("gemma2_27b", 144.0), ("gemma2_9b", None), ("gemma_2b", None)):
        c = PRESETS[name]
        _, small = checkpoint(KINDS[1 if c.post_norms else 0])
        shapes = {key: value.shape for key, value in small.items() if "/attn/" not in key}
        shapes["params/llm/embedder/input_embedding"] = (257_152, c.width)
        shapes["params/llm/layers/attn/q_einsum/w"] = (c.depth, c.num_heads, c.width, c.head_dim)
        shapes["params/llm/layers/attn/kv_einsum/w"] = (c.depth, 2, c.num_key_value_heads, c.width, c.head_dim)
        shapes["params/llm/layers/mlp/linear"] = (c.depth, c.mlp_dim, c.width)
        files = MemoryWeights({key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()})
        text = config_of(files).text
        assert (text.query_width, text.attention_soft_cap, text.logits_soft_cap, text.sliding_window) == (
            query_width, c.attention_soft_cap, c.logits_soft_cap, None,
        )  # fmt: skip
        assert (text.depth, text.mlp_dim, text.num_key_value_heads) == (c.depth, c.mlp_dim, c.num_key_value_heads)
