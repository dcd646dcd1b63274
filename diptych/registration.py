"""diptych's classes under their names in Keras' registry, with neither Keras nor them imported.

After `import diptych`, `keras.saving.load_model` opens a `.keras` file of any of its models.

Keras looks classes up by registered name and never imports what a file asks for. So a stand-in for each class waits in
the registry; it imports the class when a file needs it, and the class takes the stand-in's place. `import diptych` may
come before Keras is imported, which takes seconds and chooses the backend: then registration waits for that.
"""

import sys
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.util import find_spec

PACKAGE = "diptych"
CLASSES = {
    "core.training.optimizers": ("AdamW", "OpenAIAdam", "Lion", "Adafactor", "SGD"),
    "core.training.schedules": ("Cosine", "Linear", "Part", "OpenAICosine", "OpenAILinear"),
    "models.bit.resnet": ("BiTStem", "BiTUnit", "BiTStage", "BiTResNet"),
    "models.captioner.decoder_block": ("DecoderBlock",),
    "models.captioner.generation": ("Generator",),
    "models.captioner.model": ("TargetEmbedding", "Captioner"),
    "models.checked": ("CheckedModel",),
    "models.classifier.model": ("ImageClassifier",),
    "models.clip.model": ("CLIPVisionTransformer", "EndOfText", "CLIPTextTransformer", "CLIP"),
    "models.clip.resnet": ("Stem", "Bottleneck", "Stage", "AttentionPool", "CLIPResNet"),
    "models.gemma.decoder": ("GemmaDecoder",),
    "models.gemma.model": ("Gemma",),
    "models.paligemma.generation": ("AnswerGenerator",),
    "models.paligemma.mask_decoder": ("CodeGrid", "MaskDecoder"),
    "models.paligemma.model": ("PaliGemma",),
    "models.gpt.decoder": ("GPTDecoder",),
    "models.gpt.double_heads": ("TaskHead", "GPTDoubleHeads"),
    "models.gpt.model": ("GPT",),
    "models.parts.attention": ("Attention",),
    "models.parts.block": ("Block",),
    "models.parts.convolutions": ("Convolution", "StandardizedConvolution", "BatchNorm"),
    "models.parts.distillation_head": ("DistillationHead",),
    "models.parts.embeddings": (
        "PatchProjection",
        "PatchEmbedding",
        "TokenEmbedding",
        "PositionEmbedding",
        "SinCosPositions",
        "ClassToken",
    ),
    "models.parts.encoder": ("Encoder",),
    "models.parts.heads": ("MapHead", "Projection", "Normalize", "AtMost", "PairLogits"),
    "models.parts.initializers": ("Normal", "XavierUniform", "LecunNormal"),
    "models.parts.low_rank": ("LowRank",),
    "models.parts.mask_token": ("MaskToken",),
    "models.parts.mlp": ("Mlp",),
    "models.parts.norms": ("LayerNorm", "RMSNorm", "GroupNorm"),
    "models.siglip.model": ("SigLIP",),
    "models.siglip.naflex": ("ResizedPositionEmbedding", "PatchMask", "NaFlexVisionTransformer"),
    "models.siglip.text": ("TextTransformer",),
    "models.siglip.vit": ("VisionTransformer",),
    "models.two_towers": ("TwoTowers",),
}
"""The modules and what each registers; a test compares it with what they do."""


class StandIn:
    """What Keras finds under a class's name before anybody has imported the class."""

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name

    def from_config(self, config, **arguments):
        """An instance of the class; this is all that Keras asks of what it finds."""
        return getattr(import_module(f"{PACKAGE}.{self.module}"), self.name).from_config(config, **arguments)


def register() -> None:
    """Puts a stand-in for each class into Keras' registry, now or as soon as Keras is there."""
    if hasattr(sys.modules.get("keras"), "saving"):  # Keras' own import may be under way
        _fill()
    else:
        sys.meta_path.insert(0, _OnceKerasIsThere())


def _fill() -> None:
    registry = sys.modules["keras"].saving.get_custom_objects()
    for module, names in CLASSES.items():
        for name in names:
            registry.setdefault(f"{PACKAGE}>{name}", StandIn(module, name))


class _OnceKerasIsThere(MetaPathFinder):
    """Finds nothing itself: it lets the first import of Keras end with `_fill`."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname != "keras":
            return None
        sys.meta_path.remove(self)
        try:
            spec = find_spec("keras")
        finally:
            sys.meta_path.insert(0, self)  # an import that fails is tried again
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module):
                execute(module)
                sys.meta_path.remove(self)
                _fill()

            spec.loader.exec_module = exec_module
        return spec
