"""Fields for open_clip: what open_clip 3.3.0 with timm 1.0.31 was seen to build, and refusals of all else."""

from dataclasses import replace

import pytest

from diptych.models.clip.config import CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from diptych.models.siglip.config import NaFlexVisionConfig, SigLIPConfig, TextConfig, VisionConfig
from diptych.models.sizes import transformer_size
from diptych.models.weights import big_vision, open_clip, transformers
from diptych.models.weights.open_clip_fields import fields_of
from tests.models.examples import TINY

# What timm 1.0.31 lists for "*siglip*", without those that pool by averaging.
TIMM_NAMES = {
    *(f"vit_base_patch16_siglip_{side}" for side in (224, 256, 384, 512)),
    "vit_base_patch32_siglip_256",
    *(f"vit_large_patch16_siglip_{side}" for side in (256, 384, 512)),
    *(f"vit_so400m_patch14_siglip_{side}" for side in (224, 378, 384)),
    *(f"vit_so400m_patch16_siglip_{side}" for side in (256, 384, 512)),
    *(f"vit_giantopt_patch16_siglip_{side}" for side in (256, 384)),
    "naflexvit_base_patch16_siglip",
    "naflexvit_so400m_patch16_siglip",
}
# The fields of open_clip 3.3.0's CLIPVisionCfg that are written.
VISION_FIELDS = {"image_size", "timm_model_name", "timm_model_pretrained", "timm_pool", "timm_proj"}
BASE = VisionConfig(**transformer_size("B"), patch_size=16, image_size=256)
NAFLEX = NaFlexVisionConfig(**transformer_size("B"), patch_size=16, position_grid=16, max_num_patches=256)


def siglip(vision) -> SigLIPConfig:
    text = TextConfig(width=64, depth=1, mlp_dim=100, num_heads=2, embed_dim=vision.width)
    return SigLIPConfig(vision=vision, text=text)


def test_every_tower_that_timm_names_is_written_under_its_name():
    towers = [
        VisionConfig(**transformer_size(size), patch_size=patch, image_size=side)
        for size in ("Ti", "S", "M", "B", "L", "So400m", "H", "g", "g-opt", "G", "G-opt", "e")
        for patch in (14, 16, 32)
        for side in (192, 224, 256, 378, 384, 448, 512)
    ]
    towers += [replace(NAFLEX, **transformer_size(size)) for size in ("S", "B", "L", "So400m", "g-opt")]
    written = {}
    for vision in towers:
        try:
            fields = fields_of(siglip(vision))["model_cfg"]["vision_cfg"]
        except ValueError:
            continue
        assert fields.keys() == VISION_FIELDS
        written[fields["timm_model_name"]] = fields["image_size"]
    assert written.keys() == TIMM_NAMES
    assert all(name.endswith((f"_{side}", "_siglip")) for name, side in written.items())
    assert written["naflexvit_base_patch16_siglip"] == 256


@pytest.mark.parametrize(
    "vision",
    [
        replace(BASE, image_size=192),
        replace(BASE, patch_size=14, image_size=224),
        replace(BASE, depth=11),
        replace(BASE, pooling="gap"),
        replace(NAFLEX, max_num_patches=576),
        replace(NAFLEX, position_grid=14),
        replace(NAFLEX, **transformer_size("L")),
    ],
    ids=str,
)
def test_what_open_clip_cannot_build_is_refused_with_what_it_could(vision):
    with pytest.raises(ValueError, match=r"open_clip 3\.3\.0 with timm 1\.0\.31 builds .* B/16 at 224, 256, 384 or"):
        fields_of(siglip(vision))


@pytest.mark.parametrize("width", [24, 98, 1152])
def test_the_ratio_gives_the_width_of_the_mlp_by_open_clips_arithmetic(width):
    for mlp_dim in range(width, 5 * width, 7):
        text = CLIPTextConfig(width=width, depth=1, mlp_dim=mlp_dim, num_heads=2, embed_dim=8)
        vision = CLIPVisionConfig(width=128, depth=1, mlp_dim=mlp_dim, num_heads=2, patch_size=4, embed_dim=8)
        fields = fields_of(CLIPConfig(vision=vision, text=text))["model_cfg"]
        for tower in ("vision_cfg", "text_cfg"):
            assert int(fields[tower]["width"] * fields[tower]["mlp_ratio"]) == mlp_dim


def test_a_model_without_a_bias_has_none_there_and_is_refused_where_there_must_be_one(tmp_path):
    config = replace(siglip(BASE), init_logit_bias=None)
    assert fields_of(config)["model_cfg"]["init_logit_bias"] is None
    names = {name for rule in open_clip.table(config).rules for name in rule.theirs}
    assert "logit_scale" in names
    assert "logit_bias" not in names
    for layout in (transformers, big_vision):
        with pytest.raises(ValueError, match="has a logit bias, and this model none"):
            layout.write(tmp_path, replace(TINY, init_logit_bias=None), {})
