"""SigLIP's and SigLIP 2's models by name: the released ones, the plain sizes, and those of the default runs.

Names follow the released checkpoints: `siglip2_base_patch16_256` is `google/siglip2-base-patch16-256`.
"""

import math
from dataclasses import replace

from diptych.models.siglip.config import NaFlexVisionConfig, SigLIPConfig, TextConfig, VisionConfig
from diptych.models.sizes import transformer_size, vision_size

_LONG_NAMES = {"base": "B", "large": "L", "so400m": "So400m", "giant": "g-opt"}


def siglip_config(
    size: str,
    *,
    image_size: int = 224,
    vocab_size: int = 32_000,
    context_length: int = 64,
    text_size: str | None = None,
    init_logit_bias: float = -10.0,
) -> SigLIPConfig:
    """SigLIP's arrangement at a size such as "B/16": text tower of the same size unless `text_size` says otherwise."""
    vision = VisionConfig(**vision_size(size), image_size=image_size)
    text = TextConfig(
        **transformer_size(text_size or size.partition("/")[0]),
        vocab_size=vocab_size,
        context_length=context_length,
        embed_dim=vision.width,
    )
    return SigLIPConfig(vision=vision, text=text, init_logit_bias=init_logit_bias)


def naflex_config(config: SigLIPConfig, *, max_num_patches: int = 256) -> SigLIPConfig:
    """The same towers with an image tower for native aspects, its table of positions as large as the square grid."""
    vision = config.vision
    if not isinstance(vision, VisionConfig) or vision.pooling == "cls" or vision.positions != "learned":
        raise ValueError(
            f"A square image tower with learned positions and without a class token can become NaFlex, got {vision}."
        )
    if vision.representation_width:
        raise ValueError(f"A NaFlex image tower has no layer with tanh, and this one has: {vision}.")
    naflex = NaFlexVisionConfig(
        width=vision.width,
        depth=vision.depth,
        mlp_dim=vision.mlp_dim,
        num_heads=vision.num_heads,
        patch_size=vision.patch_size,
        position_grid=vision.image_size // vision.patch_size,
        max_num_patches=max_num_patches,
        pooling=vision.pooling,
        embed_dim=vision.embed_dim,
    )
    return replace(config, vision=naflex)


def _released() -> dict[str, SigLIPConfig]:
    presets = {}

    def add(family: str, size: str, patch: int, resolutions: tuple[int, ...], **text):
        for resolution in resolutions:
            presets[f"{family}_{size}_patch{patch}_{resolution}"] = siglip_config(
                f"{_LONG_NAMES[size]}/{patch}", image_size=resolution, **text
            )

    # SigLIP: 32k English vocabulary; the 224 px So400m was trained with 16 text tokens.
    add("siglip", "base", 16, (224, 256, 384, 512))
    add("siglip", "large", 16, (256, 384))
    add("siglip", "so400m", 14, (224,), context_length=16)
    add("siglip", "so400m", 14, (384,))
    add("siglip_i18n", "base", 16, (256,), vocab_size=250_000)
    # SigLIP 2: Gemma's 256k vocabulary; the giant's text tower is the So400m one.
    gemma = {"vocab_size": 256_000}
    add("siglip2", "base", 32, (256,), **gemma)
    add("siglip2", "base", 16, (224, 256, 384, 512), **gemma)
    add("siglip2", "large", 16, (256, 384, 512), **gemma)
    add("siglip2", "so400m", 14, (224, 384), **gemma)
    add("siglip2", "so400m", 16, (256, 384, 512), **gemma)
    add("siglip2", "giant", 16, (256, 384), text_size="So400m", **gemma)
    for size in ("base", "so400m"):
        presets[f"siglip2_{size}_patch16_naflex"] = naflex_config(presets[f"siglip2_{size}_patch16_256"])
    return presets


def _plain() -> dict[str, SigLIPConfig]:
    """One preset for each of big_vision's sizes, with the patch its tables use: `siglip_ti16_224`."""
    patches = {"mu": 16, "Ti": 16, "S": 16, "M": 16, "B": 16, "L": 16, "So400m": 14, "H": 14, "g": 14, "g-opt": 16}
    return {f"siglip_{size.lower()}{patch}_224": siglip_config(f"{size}/{patch}") for size, patch in patches.items()}


def baseline_config() -> SigLIPConfig:
    """The image tower of big_vision's ViT-S/16 baseline (Beyer et al. 2022, arXiv 2205.01580; `vit_s16_i1k.py`), beside
    a text tower of its size: fixed positions, the mean of the tokens, a layer with tanh.
    """
    config = siglip_config("S/16")
    vision = VisionConfig(
        **vision_size("S/16"), pooling="gap", positions="sincos2d", representation_width=config.vision.output_width
    )
    return replace(config, vision=vision)


EMOJI = SigLIPConfig(
    vision=VisionConfig(width=128, depth=2, mlp_dim=512, num_heads=2, patch_size=12, image_size=48),
    text=TextConfig(
        width=128,
        depth=1,
        mlp_dim=256,
        num_heads=2,
        vocab_size=8_000,
        context_length=12,
        pooling="gap",
        embed_dim=128,
    ),
    init_logit_bias=-math.log(127),
)
"""The towers of the default run: small enough to learn the embedded emoji on a laptop's CPU in minutes."""

SCENES = SigLIPConfig(
    vision=VisionConfig(width=128, depth=2, mlp_dim=512, num_heads=4, patch_size=8, image_size=48, position_stddev=1.0),
    text=TextConfig(
        width=128,
        depth=1,
        mlp_dim=256,
        num_heads=4,
        vocab_size=2_048,
        context_length=16,
        pooling="gap",
        embed_dim=128,
    ),
    init_logit_bias=-math.log(31),
)
"""The towers that SigLIP 2's recipe trains on scenes of emoji on a laptop: 36 patches to tell places apart."""

PRESETS: dict[str, SigLIPConfig] = {
    "emoji": EMOJI,
    "scenes": SCENES,
    "vit_s16_224": baseline_config(),
    **_plain(),
    **_released(),
}
"""Configurations by name; their weights are fresh."""
