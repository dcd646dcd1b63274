"""keras-hub presets of PaliGemma 1 and 2: `config.json` and the places of the weights in `model.weights.h5` (0.32)."""

from collections.abc import Mapping

from diptych.core.weights.files import WeightFiles
from diptych.core.weights.mapping import STACKED, Rule, Table, heads_in
from diptych.models.gemma.config import GemmaConfig
from diptych.models.paligemma.config import PaliGemmaConfig
from diptych.models.siglip.config import VisionConfig
from diptych.models.weights.big_vision_paligemma import POST_SCALES, SCALES, decoder_heads

CLASS = "PaliGemmaBackbone"
_IMAGE = "layers/pali_gemma_vit/layers/pali_gemma_vit_encoder"


def config_of(fields: Mapping) -> PaliGemmaConfig:
    """The configuration that a keras-hub `config.json` describes.

    The sliding window, with which PaliGemma 2 was not trained, is left out, as it is of transformers' folders. What
    queries are divided by is what the file says; keras-hub 0.32 itself divides by the root of the head's width always.

    Raises:
        ValueError: for an image tower that pools.
    """
    given = fields["config"]
    if given.get("vit_pooling") not in (None, "none"):
        raise ValueError(f"vit_pooling is {given['vit_pooling']!r}, and PaliGemma reads all tokens: expected null.")
    query_width = given["hidden_dim"] // given["num_query_heads"]
    divided = not given["query_head_dim_normalize"] and query_width != given["head_dim"]
    return PaliGemmaConfig(
        vision=VisionConfig(
            width=given["vit_hidden_dim"],
            depth=given["vit_num_layers"],
            mlp_dim=given["vit_intermediate_dim"],
            num_heads=given["vit_num_heads"],
            patch_size=given["vit_patch_size"],
            image_size=given["image_size"],
            pooling="gap",
        ),
        text=GemmaConfig(
            width=given["hidden_dim"],
            depth=given["num_layers"],
            mlp_dim=given["intermediate_dim"] // 2,  # of both products together
            num_heads=given["num_query_heads"],
            num_key_value_heads=given["num_key_value_heads"],
            head_dim=given["head_dim"],
            vocab_size=given["vocabulary_size"],
            query_width=float(query_width) if divided else None,
            post_norms=given["use_post_attention_norm"],
            attention_soft_cap=given["attention_logit_soft_cap"],
            logits_soft_cap=given["final_logit_soft_cap"],
        ),
    )


def table(config: PaliGemmaConfig, _: WeightFiles) -> Table:
    """Our names and keras-hub's."""
    text = config.text
    rules = [
        *_pair("image/patch_embedding", "kernel", "bias", f"{_IMAGE}/vision_embeddings/patch_embedding"),
        Rule("image/position_embedding/embedding", f"{_IMAGE}/vision_embeddings/position_embedding/vars/0"),
        *_pair("image/encoder/norm", "scale", "bias", f"{_IMAGE}/encoder_layer_norm"),
        *_pair("projector", "kernel", "bias", "layers/pali_gemma_vit/layers/dense"),
        Rule("decoder/token_embedding/embedding", "layers/reversible_embedding/vars/0"),
        Rule("decoder/norm/scale", "layers/rms_normalization/vars/0"),
    ]
    for layer in range(config.vision.depth):
        ours = f"image/encoder/block_{layer:02d}"
        theirs = f"{_IMAGE}/resblocks/pali_gemma_vit_encoder_block{_number(layer)}"
        parts = tuple(f"{theirs}/attn/{part}_proj" for part in ("query", "key", "value"))
        rules += [
            *_pair(f"{ours}/attention_norm", "scale", "bias", f"{theirs}/layer_norm_1"),
            Rule(f"{ours}/attention/qkv_kernel", tuple(f"{part}/vars/0" for part in parts), STACKED),
            Rule(f"{ours}/attention/qkv_bias", tuple(f"{part}/vars/1" for part in parts), STACKED),
            *_pair(f"{ours}/attention", "out_kernel", "out_bias", f"{theirs}/attn/out_proj"),
            *_pair(f"{ours}/mlp_norm", "scale", "bias", f"{theirs}/layer_norm_2"),
            *_pair(f"{ours}/mlp", "in_kernel", "in_bias", f"{theirs}/mlp_dense_1"),
            *_pair(f"{ours}/mlp", "out_kernel", "out_bias", f"{theirs}/mlp_dense_2"),
        ]
    for layer in range(text.depth):
        ours, theirs = f"decoder/block_{layer:02d}", f"layers/pali_gemma_decoder_block{_number(layer)}"
        parts = tuple(f"{theirs}/attention/{part}_dense/vars/0" for part in ("query", "key", "value"))
        products = {"gate": "gating_ffw", "in": "gating_ffw_2", "out": "ffw_linear"}
        rules += [
            Rule(f"{ours}/attention/qkv_kernel", parts, decoder_heads(text)),
            Rule(
                f"{ours}/attention/out_kernel",
                f"{theirs}/attention/output_dense/vars/0",
                heads_in(text.num_heads),
            ),
            *(Rule(f"{ours}/mlp/{part}_kernel", f"{theirs}/{name}/vars/0") for part, name in products.items()),
            *(
                Rule(f"{ours}/{part}/scale", f"{theirs}/{name}/vars/0")
                for part, name in SCALES + (POST_SCALES if text.post_norms else ())
            ),
        ]
    return Table(rules, ignored=("*/seed_generator*",))


def _pair(ours: str, first: str, second: str, theirs: str) -> list[Rule]:
    return [Rule(f"{ours}/{first}", f"{theirs}/vars/0"), Rule(f"{ours}/{second}", f"{theirs}/vars/1")]


def _number(layer: int) -> str:
    """Keras numbers the layers of one class from the second on."""
    return f"_{layer}" if layer else ""
