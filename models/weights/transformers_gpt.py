"""Hugging Face transformers' GPT-1: the names and the `config.json` of model type openai-gpt.

Kernels are [in, out] there as here, with queries, keys and values of all heads side by side; nothing is transposed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diptych.core.files.fields import Fields
from diptych.core.files.json_objects import write_config
from diptych.core.weights.files import WeightFiles
from diptych.core.weights.mapping import Arrays, Rule, Table
from diptych.core.weights.safetensors import write_safetensors_folder
from diptych.models.gpt.config import GPTConfig

MODEL_TYPE = "openai-gpt"
IGNORED = (
    "*.attn.bias",  # masks, not weights, of version 4 and before
    "*position_ids",
    "*lm_head.*",  # the token table once more
    "multiple_choice_head.*",
    "score.*",
)
"""What stands beside the language model: masks, and heads that have been put on it."""

_PREFIX = "transformer."

_ACTIVATIONS = {"gelu": "gelu_tanh", "gelu_new": "gelu_tanh"}
"""transformers' name "gelu" is the tanh form in this model type."""


def table(config: GPTConfig, files: WeightFiles | None = None) -> Table:
    """Our names and transformers': those of a model with a head, or, where the files have them, those of the bare model
    and those of old files.
    """
    names = files.shapes if files is not None else {}
    prefix = _PREFIX if not names or any(name.startswith(_PREFIX) for name in names) else ""
    old = any(name.endswith(".g") for name in names)

    def theirs(part: str, kind: str) -> str:
        if not old:
            return f"{prefix}{part}.{kind}"
        return f"{prefix}{part}.{'b' if kind == 'bias' else 'g' if '.ln_' in part else 'w'}"

    rules = [
        Rule("decoder/token_embedding/embedding", f"{prefix}tokens_embed.weight"),
        Rule("decoder/position_embedding/embedding", f"{prefix}positions_embed.weight"),
    ]
    for layer in range(config.depth):
        block, other = f"decoder/block_{layer:02d}", f"h.{layer}"
        for ours, part in (("attention/qkv", "attn.c_attn"), ("attention/out", "attn.c_proj"),
                           ("mlp/in", "mlp.c_fc"), ("mlp/out", "mlp.c_proj")):  # fmt: skip
            rules.append(Rule(f"{block}/{ours}_kernel", theirs(f"{other}.{part}", "weight")))
            rules.append(Rule(f"{block}/{ours}_bias", theirs(f"{other}.{part}", "bias")))
        for ours, part in (("attention_norm", "ln_1"), ("mlp_norm", "ln_2")):
            rules.append(Rule(f"{block}/{ours}/scale", theirs(f"{other}.{part}", "weight")))
            rules.append(Rule(f"{block}/{ours}/bias", theirs(f"{other}.{part}", "bias")))
    return Table(rules, ignored=IGNORED)


def config_of(given: Mapping[str, Any], path: Path) -> GPTConfig:
    """The configuration in a `config.json`; fields that it lacks have transformers' defaults, which are the paper's.
    Old files count special tokens apart from the vocabulary (n_special).

    Raises:
        WeightFileError: for an activation that GPT-1's model type has and we have not.
    """
    fields = Fields(str(path), dict(given))
    activation = fields.get("afn", str, "gelu")
    if activation not in _ACTIVATIONS:
        raise fields.wrong("afn", f"one of {', '.join(_ACTIVATIONS)}")
    if not fields.get("tie_word_embeddings", bool, True):
        raise fields.wrong("tie_word_embeddings", "true: the token table is the logits' kernel")
    width = fields.get("n_embd", int, 768)
    return GPTConfig(
        width=width,
        depth=fields.get("n_layer", int, 12),
        mlp_dim=4 * width,
        num_heads=fields.get("n_head", int, 12),
        vocab_size=fields.get("vocab_size", int, 40_478) + fields.get("n_special", int, 0),
        context_length=fields.get("n_positions", int, 512),
        activation=_ACTIVATIONS[activation],
        norm_epsilon=fields.get("layer_norm_epsilon", float, 1e-5),
        embedding_dropout=fields.get("embd_pdrop", float, 0.1),
        attention_dropout=fields.get("attn_pdrop", float, 0.1),
        addition_dropout=fields.get("resid_pdrop", float, 0.1),
    )


def write(folder: Path, config: GPTConfig, arrays: Arrays) -> None:
    """Writes `config.json` and the safetensors of OpenAIGPTLMHeadModel; raises ValueError for what they cannot say."""
    wrong = [
        f"{field} {getattr(config, field)!r} (there {only!r})"
        for field, only in {"mlp_dim": 4 * config.width, "activation": "gelu_tanh", "predicts": "tokens"}.items()
        if getattr(config, field) != only
    ]
    if wrong:
        raise ValueError(f"transformers' openai-gpt cannot express {' and '.join(wrong)}. Use format 'diptych'.")
    write_safetensors_folder(folder, table(config).save(arrays), metadata={"format": "pt"})
    fields = {
        "model_type": MODEL_TYPE,
        "architectures": ["OpenAIGPTLMHeadModel"],
        "afn": "gelu",
        "n_embd": config.width,
        "n_layer": config.depth,
        "n_head": config.num_heads,
        "n_positions": config.context_length,
        "vocab_size": config.vocab_size,
        "layer_norm_epsilon": config.norm_epsilon,
        "initializer_range": 0.02,
        "embd_pdrop": config.embedding_dropout,
        "attn_pdrop": config.attention_dropout,
        "resid_pdrop": config.addition_dropout,
    }
    write_config(folder / "config.json", fields)
