"""Configurations: what is refused, with words that help, and that what is accepted survives a file."""

import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given

from diptych.models import (
    BiTConfig,
    CLIPConfig,
    CLIPResNetConfig,
    CLIPTextConfig,
    CLIPVisionConfig,
    TextConfig,
    VisionConfig,
)
from diptych.models.presets import PRESETS, preset_config
from diptych.models.siglip.config import SigLIPConfig, pair_config
from diptych.models.siglip.presets import siglip_config
from diptych.models.sizes import SIZES, transformer_size, vision_size
from tests.models.configurations import models
from tests.models.examples import TINY, TINY_TEXT, TINY_VISION

REFUSED = [
    (TINY_VISION, {"width": 0}, "width must be a positive integer, got 0"),
    (TINY_VISION, {"depth": -1}, "depth must be a positive integer, got -1"),
    (TINY_VISION, {"mlp_dim": 1.5}, "mlp_dim must be a positive integer, got 1.5"),
    (TINY_VISION, {"num_heads": "2"}, "num_heads must be a positive integer, got '2'"),
    (TINY_VISION, {"num_heads": 3}, "width must be a multiple of num_heads, got width 16 and 3 heads"),
    (TINY_VISION, {"patch_size": 0}, "patch_size must be a positive integer, got 0"),
    (TINY_VISION, {"patch_size": 11}, "patch_size must be at most image_size, got 11 for images of 10 px"),
    (TINY_VISION, {"pooling": "last"}, "pooling of images must be map, gap or cls, got 'last'"),
    (TINY_VISION, {"embed_dim": 0}, "embed_dim must be a positive integer, or None for no projection, got 0"),
    (TINY_TEXT, {"width": 13}, "width must be a multiple of num_heads, got width 13 and 3 heads"),
    (TINY_TEXT, {"vocab_size": 0}, "vocab_size must be a positive integer, got 0"),
    (TINY_TEXT, {"context_length": -2}, "context_length must be a positive integer, got -2"),
    (TINY_TEXT, {"pooling": "cls"}, "pooling of text must be last, first, gap or map, got 'cls'"),
    (TINY, {"init_logit_scale": 0.0}, "init_logit_scale must be positive, got 0.0"),
    (TINY, {"max_logit_scale": 9.0}, "max_logit_scale must be at least init_logit_scale 10.0"),
    (TINY_VISION, {"position_stddev": 0.0}, "position_stddev must be positive, or None for width^-0.5, got 0.0"),
    (TINY_VISION, {"representation_width": 0}, "representation_width must be a positive integer, or None"),
    (TINY_VISION, {"positions": "rotary"}, "positions must be learned or sincos2d, got 'rotary'"),
    (replace(TINY_VISION, num_heads=3, width=18), {"positions": "sincos2d"}, "that 4 divides, got 18"),
    (TINY_VISION, {"positions": "sincos2d", "position_stddev": 1.0}, "position_stddev is of learned positions"),
    (TINY, {"vision": replace(TINY_VISION, embed_dim=8)}, "image 8, text 16. Set embed_dim of one of them"),
]


@pytest.mark.parametrize(("config", "change", "message"), REFUSED)
def test_a_wrong_field_is_named_with_its_value(config, change, message):
    with pytest.raises(ValueError, match="must be|differ in width|need a width|is of learned") as error:
        replace(config, **change)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: transformer_size("b"), "Unknown size 'b': expected one of mu, Ti, S"),
        (lambda: transformer_size("so400m"), "Did you mean So400m?"),
        (lambda: vision_size("B"), "A vision size is written like 'B/16' (size/patch), got 'B'"),
        (lambda: vision_size("B/x"), "got 'B/x'"),
        (lambda: vision_size("X/16"), "Unknown size 'X'"),
        (lambda: preset_config("siglip2_base_patch16_255"), "Did you mean siglip2_base_patch16_256 or"),
        (lambda: preset_config("emoji_36_languages"), "Recipes begin from a checkpoint by --pretrained"),
        (lambda: preset_config("hf://google/siglip2-base-patch16-256"), "is a checkpoint"),
        (lambda: preset_config("%%%"), "`diptych models` lists all names"),
    ],
)
def test_an_unknown_name_gets_the_choices(call, message):
    with pytest.raises(
        ValueError, match=r"Unknown|written like|is a checkpoint, and the name of a size is expected"
    ) as error:
        call()
    assert message in str(error.value)


def test_sizes_read_like_the_field_writes_them():
    assert vision_size("So400m/14") == {"width": 1152, "depth": 27, "mlp_dim": 4304, "num_heads": 16, "patch_size": 14}
    assert siglip_config("L/16", image_size=256).vision.num_patches == 256
    assert siglip_config("So400m/14", image_size=384).vision.num_patches == 27 * 27  # 6 of 384 pixels are not seen
    assert siglip_config("g-opt/16", text_size="So400m").text.width == 1152
    assert siglip_config("g-opt/16", text_size="So400m").text.embed_dim == 1536


def test_every_size_up_to_g_opt_is_a_preset():
    towers = [config.vision for config in PRESETS.values() if isinstance(config.vision, VisionConfig)]
    shapes = {(tower.width, tower.depth, tower.mlp_dim, tower.num_heads) for tower in towers}
    missing = [name for name, shape in SIZES.items() if shape not in shapes]
    assert missing == ["G", "G-opt", "e"]  # past what SigLIP was trained at; `siglip_config("G/14")` builds them


@given(models())
def test_a_configuration_survives_json(config):
    assert SigLIPConfig(**json.loads(json.dumps(asdict(config)))) == config


@pytest.mark.parametrize(
    "vision",
    [
        CLIPVisionConfig(width=8, depth=1, mlp_dim=8, num_heads=2, embed_dim=6),
        CLIPResNetConfig(width=2, num_heads=2, embed_dim=6),
        BiTConfig(width=2, num_groups=2, embed_dim=6),
    ],
)
def test_others_towers_under_siglips_logits_are_told_apart_by_their_fields(vision):
    text = CLIPTextConfig(width=8, depth=1, mlp_dim=8, num_heads=2, embed_dim=6)
    own = TextConfig(width=8, depth=1, mlp_dim=8, num_heads=2, embed_dim=6)
    for config in (SigLIPConfig(vision=vision, text=text), SigLIPConfig(vision=vision, text=own)):
        assert SigLIPConfig(**json.loads(json.dumps(asdict(config)))) == config
        with pytest.raises(ValueError, match='format="diptych"'):
            _ = config.own_towers
    scale = {"init_logit_scale": 10.0, "max_logit_scale": None}
    kind = SigLIPConfig if isinstance(vision, BiTConfig) else CLIPConfig
    assert isinstance(pair_config(vision, text, init_logit_bias=None, **scale), kind)
    assert isinstance(pair_config(vision, text, init_logit_bias=-1.0, **scale), SigLIPConfig)
    assert isinstance(pair_config(vision, own, init_logit_bias=None, **scale), SigLIPConfig)
