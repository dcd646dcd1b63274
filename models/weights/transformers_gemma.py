"""Hugging Face transformers' Gemma 1 and 2: the names and the `config.json` of model types gemma and gemma2.

Weights of norms are distances from one there as here. A norm of Gemma 1 that is called post_attention_layernorm stands
before the MLP; that of Gemma 2 behind the attention.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from diptych.core.files.json_objects import write_config
from diptych.core.weights.files import WeightFiles
from diptych.core.weights.mapping import TRANSPOSED, Arrays, Rule, Table, stacked_transposed
from diptych.core.weights.safetensors import write_safetensors_folder
from diptych.models.gemma.config import GemmaConfig
from diptych.models.gemma.decoder import ROTARY_BASE
from diptych.models.parts.norms import EPSILON

MODEL_TYPES = ("gemma", "gemma2")
IGNORED = ("*lm_head.weight", "*.rotary_emb.inv_freq")
"""What stands beside the weights: the token table once more, and angles."""

PREFIX = "model."

_DEFAULTS: dict[str, dict[str, Any]] = {
    "gemma": {
        "hidden_size": 3_072,
        "intermediate_size": 24_576,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
    },
    "gemma2": {
        "hidden_size": 2_304,
        "intermediate_size": 9_216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4_096,
        "final_logit_softcapping": 30.0,
        "attn_logit_softcapping": 50.0,
    },
}
_SHARED = {"head_dim": 256, "vocab_size": 256_000, "max_position_embeddings": 8_192}
_ACTIVATIONS = ("gelu", "gelu_pytorch_tanh", None)
"""Names of GELU's tanh form in these model types: "gelu" was meant so, too."""

_NORMS = (("attention_norm", "input_layernorm"), ("mlp_norm", "post_attention_layernorm"))
_NORMS_OF_GEMMA2 = (
    ("attention_norm", "input_layernorm"),
    ("attention_post_norm", "post_attention_layernorm"),
    ("mlp_norm", "pre_feedforward_layernorm"),
    ("mlp_post_norm", "post_feedforward_layernorm"),
)


def table(config: GemmaConfig, files: WeightFiles | None = None) -> Table:
    """Our names and transformers': those of a model with a head, or, where the files have them, of the bare model."""
    return Table(decoder_rules(config, prefix_of("embed_tokens.weight", files, PREFIX)), ignored=IGNORED)


def decoder_rules(config: GemmaConfig, prefix: str) -> list[Rule]:
    """The rules of the decoder, whose names begin so there."""
    rules = [
        Rule("decoder/token_embedding/embedding", f"{prefix}embed_tokens.weight"),
        Rule("decoder/norm/scale", f"{prefix}norm.weight"),
    ]
    heads = stacked_transposed(config.num_heads, config.num_key_value_heads, config.num_key_value_heads)
    for layer in range(config.depth):
        block, other = f"decoder/block_{layer:02d}", f"{prefix}layers.{layer}"
        projections = [f"{other}.self_attn.{part}_proj.weight" for part in ("q", "k", "v")]
        rules.append(Rule(f"{block}/attention/qkv_kernel", projections, heads))
        rules.append(Rule(f"{block}/attention/out_kernel", f"{other}.self_attn.o_proj.weight", TRANSPOSED))
        for ours, theirs in (("gate", "gate"), ("in", "up"), ("out", "down")):
            rules.append(Rule(f"{block}/mlp/{ours}_kernel", f"{other}.mlp.{theirs}_proj.weight", TRANSPOSED))
        norms = _NORMS_OF_GEMMA2 if config.post_norms else _NORMS
        rules += [Rule(f"{block}/{ours}/scale", f"{other}.{theirs}.weight") for ours, theirs in norms]
    return rules


def prefix_of(ending: str, files: WeightFiles | None, otherwise: str) -> str:
    """What stands before a name that there is one of in the files; `otherwise` where it is not there."""
    names: Iterable[str] = () if files is None else files.shapes
    return next((name.removesuffix(ending) for name in names if name.endswith(ending)), otherwise)


def config_of(fields: Mapping[str, Any], source: Path) -> GemmaConfig:
    """The configuration in a `config.json`; fields that it lacks have transformers' defaults.

    Raises:
        ValueError: for a field whose value no model here computes with.
    """
    kind = fields.get("model_type")
    if kind not in MODEL_TYPES:
        raise ValueError(f"{source}: model_type is {kind!r}, expected one of {', '.join(MODEL_TYPES)}.")
    values = _SHARED | _DEFAULTS[kind] | dict(fields)
    activation = values.get("hidden_activation") or values.get("hidden_act")
    rotary = values.get("rope_parameters") or {}
    only = {
        "rms_norm_eps": (values.get("rms_norm_eps", EPSILON), EPSILON),
        "rope_theta": (values.get("rope_theta", ROTARY_BASE), ROTARY_BASE),
        "rope_parameters.rope_theta": (rotary.get("rope_theta", ROTARY_BASE), ROTARY_BASE),
        "rope_type": (rotary.get("rope_type", "default"), "default"),
        "rope_scaling": (values.get("rope_scaling"), None),
        "attention_bias": (values.get("attention_bias") or False, False),
        "tie_word_embeddings": (values.get("tie_word_embeddings", True), True),
        "hidden_activation": (activation if activation not in _ACTIVATIONS else None, None),
    }
    for name, (found, expected) in only.items():
        if found != expected:
            raise ValueError(f"{source}: {name} is {found!r}; models here compute with {expected!r}.")
    return GemmaConfig(
        width=values["hidden_size"],
        depth=values["num_hidden_layers"],
        mlp_dim=values["intermediate_size"],
        num_heads=values["num_attention_heads"],
        num_key_value_heads=values["num_key_value_heads"],
        head_dim=values["head_dim"],
        vocab_size=values["vocab_size"],
        context_length=values["max_position_embeddings"],
        query_width=_query_width(values),
        post_norms=kind == "gemma2",
        attention_soft_cap=values.get("attn_logit_softcapping") if kind == "gemma2" else None,
        logits_soft_cap=values.get("final_logit_softcapping") if kind == "gemma2" else None,
        sliding_window=_window(values, source) if kind == "gemma2" else None,
    )


def _query_width(values: Mapping[str, Any]) -> float | None:
    width = values.get("query_pre_attn_scalar")
    return None if width in (None, values["head_dim"]) else float(width)


def _window(values: Mapping[str, Any], source: Path) -> int | None:
    """The sliding window of each second layer; None where all layers see everything."""
    window, layers = values["sliding_window"], values["num_hidden_layers"]
    names = ["full_attention" if layer % 2 else "sliding_attention" for layer in range(layers)]
    given = values.get("layer_types") or names
    if window is None or set(given) == {"full_attention"}:
        return None
    if list(given) != names:
        raise ValueError(
            f"{source}: layer_types are {given!r:.200}; models here have a sliding window in each second layer from "
            "the first on, or in none."
        )
    return window


def fields_of(config: GemmaConfig) -> dict[str, Any]:
    """The fields of a `config.json`, nothing left to a default, without the class's name and the weights' dtype.

    Raises:
        ValueError: for a model that neither model type describes.
    """
    gemma2 = config.post_norms
    beyond = {
        field: getattr(config, field)
        for field in ("query_width", "attention_soft_cap", "logits_soft_cap", "sliding_window")
        if getattr(config, field) is not None
    }
    if beyond and not gemma2:
        raise ValueError(
            f"transformers' gemma has no {', '.join(beyond)}, and its gemma2 has norms behind attention and MLP, which "
            'this model has not. Save it with format="diptych".'
        )
    fields = {
        "model_type": "gemma2" if gemma2 else "gemma",
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "intermediate_size": config.mlp_dim,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": EPSILON,
        "rope_theta": ROTARY_BASE,
        "rope_parameters": {"rope_theta": ROTARY_BASE, "rope_type": "default"},
        "attention_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
    }
    if not gemma2:
        return fields
    slides = config.sliding_window is not None
    scalar = float(config.query_width or config.head_dim)
    return fields | {
        "query_pre_attn_scalar": int(scalar) if scalar.is_integer() else scalar,
        "attn_logit_softcapping": config.attention_soft_cap,
        "final_logit_softcapping": config.logits_soft_cap,
        "sliding_window": config.sliding_window if slides else config.context_length,
        "layer_types": [
            "sliding_attention" if slides and layer % 2 == 0 else "full_attention" for layer in range(config.depth)
        ],
    }


def write(folder: Path, config: GemmaConfig, arrays: Arrays) -> None:
    """Writes `config.json` and the safetensors of GemmaForCausalLM or Gemma2ForCausalLM."""
    name = "Gemma2ForCausalLM" if config.post_norms else "GemmaForCausalLM"
    fields = {"architectures": [name], "dtype": stored_dtype(arrays), **fields_of(config)}
    write_safetensors_folder(folder, table(config).save(arrays), metadata={"format": "pt"})
    write_config(folder / "config.json", fields)


def stored_dtype(arrays: Arrays) -> str:
    """The dtype of a model's arrays, by that of a small one."""
    return str(arrays["decoder/norm/scale"]().dtype)
