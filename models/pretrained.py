"""Whole models of any family by the name of a preset, or by a configuration."""

from pathlib import Path

from diptych.core.weights.hub import preset_folder
from diptych.models.checkpoints import Config, load_model, read_checkpoint
from diptych.models.classifier.config import ClassifierConfig
from diptych.models.classifier.model import ImageClassifier, classifier_of
from diptych.models.clip.config import CLIPConfig
from diptych.models.clip.model import CLIP
from diptych.models.gemma.config import GemmaConfig
from diptych.models.gemma.model import Gemma
from diptych.models.gpt.config import GPTConfig
from diptych.models.gpt.double_heads import GPTDoubleHeads
from diptych.models.gpt.double_heads_config import GPTDoubleHeadsConfig
from diptych.models.gpt.model import GPT
from diptych.models.language_model import TextPredictor
from diptych.models.paligemma.config import PaliGemmaConfig
from diptych.models.paligemma.mask_decoder_config import MaskDecoderConfig
from diptych.models.paligemma.model import PaliGemma
from diptych.models.presets import ALL_PRESETS, PRESETS
from diptych.models.siglip.config import SigLIPConfig
from diptych.models.siglip.model import SigLIP
from diptych.models.two_towers import PretrainedPair


def from_preset(
    preset: str | Path, *, revision: str | None = None, load_weights: bool = True, **arguments
) -> PretrainedPair:
    """The model of a preset, of whatever family it is; arguments and errors as for `SigLIP.from_preset`."""
    kinds = (SigLIPConfig, CLIPConfig)
    return load_model(preset, build_model, kinds, revision=revision, load_weights=load_weights, **arguments)


def trained_preset(name: str | Path) -> str | Path:
    """The preset that a trained model's name stands for: a finished run's folder stands for the model in it.

    Raises:
        ValueError: for the name of a size, whose weights are fresh, and for a run without a model.
    """
    if name in PRESETS:
        raise ValueError(
            f"{str(name)!r} is a size with fresh weights, which know nothing. Give a trained model: a folder, "
            "hf://owner/name, or emoji_36_languages."
        )
    folder = Path(name)
    if (folder / "config.json").is_file():
        return name
    if (folder / "model" / "config.json").is_file():
        return folder / "model"
    if not (folder / "checkpoints").is_dir():
        return name
    stages = sorted(str(found.parents[1]) for found in folder.glob("*/model/config.json"))
    raise ValueError(
        f"{name} holds a run of several stages: give the folder of one, {', '.join(stages)}."
        if stages
        else f"{name} holds a run that has not come to its end, and so no model yet. Its command again goes on with it."
    )


def writes_texts(preset: str | Path, *, revision: str | None = None) -> bool:
    """Whether a checkpoint holds a model that predicts one token after the other: a PaliGemma, Gemma or GPT."""
    config = read_checkpoint(preset_folder(preset, revision=revision, known=ALL_PRESETS)).config
    return isinstance(config, (GPTConfig, GemmaConfig, PaliGemmaConfig))


def is_paligemma(name: str | Path) -> bool:
    """Whether a trained model's name stands for a PaliGemma; raises as `trained_preset` and `from_preset` do."""
    checkpoint = read_checkpoint(preset_folder(trained_preset(name), known=PRESETS))
    return isinstance(checkpoint.config, PaliGemmaConfig)


def build_model(config: Config, **arguments) -> PretrainedPair | ImageClassifier | TextPredictor:
    """The model that a configuration describes, with fresh weights."""
    if isinstance(config, ClassifierConfig):
        return classifier_of(config, **arguments)
    if isinstance(config, GPTConfig):
        return GPT(config, **arguments)
    if isinstance(config, GPTDoubleHeadsConfig):
        return GPTDoubleHeads(config, **arguments)
    if isinstance(config, GemmaConfig):
        return Gemma(config, **arguments)
    if isinstance(config, PaliGemmaConfig):
        return PaliGemma(config, **arguments)
    if isinstance(config, MaskDecoderConfig):
        raise TypeError("A decoder of masks is no model of pictures or texts: build it by MaskDecoder.")
    if isinstance(config, CLIPConfig):
        return CLIP(config, **arguments)
    return SigLIP(config, **arguments)
