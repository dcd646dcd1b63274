"""Models as small as can be, with processors: of fixed size, NaFlex, and CLIP with both kinds of image towers."""

from pathlib import Path

import keras
import numpy as np

from diptych.core.data import emoji
from diptych.core.data.examples.naflex import NaFlex
from diptych.core.data.pixels import CLIP_MEAN, CLIP_STD, FixedSize, Normalization
from diptych.core.data.processor.processor import Processor
from diptych.core.data.tokenizers.open import open_tokenizer
from diptych.engine.embedding.encoder import Encoder
from diptych.models import CLIP, SigLIP
from diptych.models.clip.config import CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from diptych.models.clip.resnet_config import CLIPResNetConfig
from diptych.models.siglip.config import NaFlexVisionConfig, SigLIPConfig, TextConfig, VisionConfig

TOWER = {"width": 12, "depth": 1, "mlp_dim": 20, "num_heads": 3}
TEXT = {**TOWER, "vocab_size": 8_000, "context_length": 7, "embed_dim": 8}
CLIP_PIXELS = FixedSize(
    height=12, width=12, shortest_edge=12, normalization=Normalization(mean=CLIP_MEAN, std=CLIP_STD)
)


def fixed() -> Encoder:
    vision = VisionConfig(**TOWER, patch_size=4, image_size=10, embed_dim=8)
    model = SigLIP(SigLIPConfig(vision=vision, text=TextConfig(**TEXT), init_logit_bias=-2.5))
    return _encoder(model, FixedSize(height=10, width=10))


def naflex() -> Encoder:
    vision = NaFlexVisionConfig(**TOWER, patch_size=4, position_grid=3, max_num_patches=12, embed_dim=8)
    model = SigLIP(SigLIPConfig(vision=vision, text=TextConfig(**TEXT)))
    return _encoder(model, NaFlex(patch_size=4, max_num_patches=12))


def clip() -> Encoder:
    vision = CLIPVisionConfig(**TOWER, patch_size=4, image_size=12, embed_dim=8)
    return _encoder(CLIP(CLIPConfig(vision=vision, text=CLIPTextConfig(**TEXT, eot_id=1))), CLIP_PIXELS)


def clip_resnet() -> Encoder:
    vision = CLIPResNetConfig(width=4, stage_depths=(1, 1, 1, 1), num_heads=2, image_size=32, embed_dim=8)
    pixels = FixedSize(height=32, width=32, shortest_edge=32, normalization=CLIP_PIXELS.normalization)
    return _encoder(CLIP(CLIPConfig(vision=vision, text=CLIPTextConfig(**TEXT, eot_id=1))), pixels)


ENCODERS = {"fixed": fixed, "naflex": naflex, "clip": clip, "clip_resnet": clip_resnet}


def _encoder(model: keras.Model, pixels: FixedSize | NaFlex) -> Encoder:
    """With every weight moved, so that a graph that drops one which is zero at first is found out."""
    rng = np.random.default_rng(7)
    for variable in model.weights:
        value = keras.ops.convert_to_numpy(variable.value)
        change = rng.uniform(-0.1, 0.1, value.shape).astype(np.float32)
        variable.assign(value + (np.abs(change) if variable.path.endswith("variance") else change))
    tokenizer = open_tokenizer(Path(emoji.__file__).parent / "tokenizer.model")
    return Encoder(model, Processor(pixels=pixels, tokenizer=tokenizer, context_length=TEXT["context_length"]))
