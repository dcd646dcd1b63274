"""CLIP's released models by name (Radford et al. 2021, tables 19 and 20)."""

from diptych.models.clip.config import CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from diptych.models.clip.resnet_config import CLIPResNetConfig
from diptych.models.sizes import vision_size


def clip_text_config(width: int, embed_dim: int) -> CLIPTextConfig:
    """CLIP's text tower of a width: twelve blocks with heads of 64."""
    return CLIPTextConfig(width=width, depth=12, mlp_dim=4 * width, num_heads=width // 64, embed_dim=embed_dim)


def _resnet(
    depths: tuple[int, int, int, int], width: int, image_size: int, embed_dim: int, text_width: int
) -> CLIPConfig:
    vision = CLIPResNetConfig(
        stage_depths=depths, width=width, num_heads=width // 2, image_size=image_size, embed_dim=embed_dim
    )
    return CLIPConfig(vision=vision, text=clip_text_config(text_width, embed_dim))


def _vit(size: str, embed_dim: int, text_width: int, image_size: int = 224) -> CLIPConfig:
    vision = CLIPVisionConfig(**vision_size(size), image_size=image_size, embed_dim=embed_dim)
    return CLIPConfig(vision=vision, text=clip_text_config(text_width, embed_dim))


PRESETS = {
    "clip_rn50": _resnet((3, 4, 6, 3), 64, 224, 1024, 512),
    "clip_rn101": _resnet((3, 4, 23, 3), 64, 224, 512, 512),
    "clip_rn50x4": _resnet((4, 6, 10, 6), 80, 288, 640, 640),
    "clip_rn50x16": _resnet((6, 8, 18, 8), 96, 384, 768, 768),
    "clip_rn50x64": _resnet((3, 15, 36, 10), 128, 448, 1024, 1024),
    "clip_vit_base_patch32": _vit("B/32", 512, 512),
    "clip_vit_base_patch16": _vit("B/16", 512, 512),
    "clip_vit_large_patch14": _vit("L/14", 768, 768),
    "clip_vit_large_patch14_336": _vit("L/14", 768, 768, 336),
}
"""Configurations by name; their weights are fresh."""
