"""Towers and whole models, each defined once in Keras 3.

Keras is imported with the first model that is asked for; configurations, presets and counts do without it.
"""

from typing import TYPE_CHECKING

from diptych.models.bit.config import BiTConfig
from diptych.models.captioner.config import CaptionerConfig
from diptych.models.classifier.config import ClassifierConfig
from diptych.models.clip.config import CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from diptych.models.clip.resnet_config import CLIPResNetConfig
from diptych.models.gemma.config import GemmaConfig
from diptych.models.gpt.config import GPTConfig
from diptych.models.gpt.double_heads_config import GPTDoubleHeadsConfig
from diptych.models.paligemma.config import PaliGemmaConfig
from diptych.models.paligemma.mask_decoder_config import MaskDecoderConfig
from diptych.models.siglip.config import NaFlexVisionConfig, SigLIPConfig, TextConfig, VisionConfig

if TYPE_CHECKING:
    from diptych.models.bit.resnet import BiTResNet
    from diptych.models.captioner.model import Captioner
    from diptych.models.classifier.model import ImageClassifier
    from diptych.models.clip.model import CLIP, CLIPTextTransformer, CLIPVisionTransformer
    from diptych.models.gemma.model import Gemma
    from diptych.models.gpt.double_heads import GPTDoubleHeads
    from diptych.models.gpt.model import GPT
    from diptych.models.paligemma.mask_decoder import MaskDecoder
    from diptych.models.paligemma.model import PaliGemma
    from diptych.models.pretrained import from_preset
    from diptych.models.siglip.model import SigLIP
    from diptych.models.siglip.model import SigLIP as SigLIP2
    from diptych.models.siglip.naflex import NaFlexVisionTransformer
    from diptych.models.siglip.text import TextTransformer
    from diptych.models.siglip.vit import VisionTransformer
    from diptych.models.two_towers import TwoTowers

__all__ = [
    "CLIP",
    "GPT",
    "BiTConfig",
    "BiTResNet",
    "CLIPConfig",
    "CLIPResNetConfig",
    "CLIPTextConfig",
    "CLIPTextTransformer",
    "CLIPVisionConfig",
    "CLIPVisionTransformer",
    "Captioner",
    "CaptionerConfig",
    "ClassifierConfig",
    "GPTConfig",
    "GPTDoubleHeads",
    "GPTDoubleHeadsConfig",
    "Gemma",
    "GemmaConfig",
    "ImageClassifier",
    "MaskDecoder",
    "MaskDecoderConfig",
    "NaFlexVisionConfig",
    "NaFlexVisionTransformer",
    "PaliGemma",
    "PaliGemmaConfig",
    "SigLIP",
    "SigLIP2",
    "SigLIPConfig",
    "TextConfig",
    "TextTransformer",
    "TwoTowers",
    "VisionConfig",
    "VisionTransformer",
    "from_preset",
]


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from diptych.models.bit.resnet import BiTResNet
    from diptych.models.captioner.model import Captioner
    from diptych.models.classifier.model import ImageClassifier
    from diptych.models.clip.model import CLIP, CLIPTextTransformer, CLIPVisionTransformer
    from diptych.models.gemma.model import Gemma
    from diptych.models.gpt.double_heads import GPTDoubleHeads
    from diptych.models.gpt.model import GPT
    from diptych.models.paligemma.mask_decoder import MaskDecoder
    from diptych.models.paligemma.model import PaliGemma
    from diptych.models.pretrained import from_preset
    from diptych.models.siglip.model import SigLIP
    from diptych.models.siglip.naflex import NaFlexVisionTransformer
    from diptych.models.siglip.text import TextTransformer
    from diptych.models.siglip.vit import VisionTransformer
    from diptych.models.two_towers import TwoTowers

    models = (
        CLIP,
        GPT,
        GPTDoubleHeads,
        BiTResNet,
        CLIPTextTransformer,
        CLIPVisionTransformer,
        Captioner,
        Gemma,
        ImageClassifier,
        MaskDecoder,
        NaFlexVisionTransformer,
        PaliGemma,
        SigLIP,
        TextTransformer,
        TwoTowers,
        VisionTransformer,
    )
    # The released SigLIP 2 checkpoints are SigLIP with another vocabulary and other sizes; NaFlex is a kind of image
    # tower.
    globals().update({model.__name__: model for model in models} | {"SigLIP2": SigLIP, "from_preset": from_preset})
    return globals()[name]


if __name__ == "models":
    from diptych.checkout import alias_room

    alias_room(__name__)
