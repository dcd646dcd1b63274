"""Hugging Face transformers: SiglipForImageClassification and Siglip2ForImageClassification.

Their head reads the mean of the patch tokens behind the last norm, and never the attention pooling, whose weights many
checkpoints hold all the same. (Before July 2024 the first patch was left out of the mean by mistake; transformers
itself computes old checkpoints with it today.)
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from diptych.core.files.json_objects import write_config
from diptych.core.weights.files import WeightFiles
from diptych.core.weights.mapping import TRANSPOSED, Arrays, Rule, Table
from diptych.core.weights.safetensors import write_safetensors_folder
from diptych.models.bit.config import BiTConfig
from diptych.models.classifier.config import ClassifierConfig
from diptych.models.siglip.config import NaFlexVisionConfig, VisionConfig
from diptych.models.weights import transformers, transformers_fields

CLASSES = {"siglip": "SiglipForImageClassification", "siglip2": "Siglip2ForImageClassification"}
SEVERAL, SINGLE = "multi_label_classification", "single_label_classification"


def is_classifier(fields: Mapping) -> bool:
    """Whether a `config.json` describes one of these classes."""
    return any(name in CLASSES.values() for name in fields.get("architectures") or ())


def config_of(fields: Mapping, source: Path) -> ClassifierConfig:
    """The configuration that a `config.json` describes.

    Raises:
        ValueError: for classes without numbers from 0 on, for regression, and as `transformers_fields.config_of`.
    """
    vision = transformers_fields.vision_of(fields, source)
    named = fields.get("id2label") or {str(number): f"LABEL_{number}" for number in range(fields.get("num_labels", 2))}
    numbers = [str(number) for number in range(len(named))]
    if set(named) != set(numbers) or not named:
        raise ValueError(f"{source}: id2label must name the classes 0 to {len(named) - 1}, got {list(named)[:5]}.")
    problem = fields.get("problem_type") or SINGLE
    if problem not in (SINGLE, SEVERAL):
        raise ValueError(f"{source}: problem_type is {problem!r}, expected {SINGLE} or {SEVERAL}.")
    return ClassifierConfig(
        vision=replace(vision, pooling="gap"),
        classes=tuple(str(named[number]) for number in numbers),
        several_labels=problem == SEVERAL,
    )


def table(config: ClassifierConfig, files: WeightFiles | None = None) -> Table:
    """Our names and transformers'; the weights of the attention pooling, which the class does not use, are ignored."""
    head = [
        Rule("classifier/kernel", "classifier.weight", TRANSPOSED),
        Rule("classifier/bias", "classifier.bias"),
    ]
    ignored = (*transformers.IGNORED, "vision_model.head.*")
    return Table([*transformers.vision_rules(_own_vision(config)), *head], ignored=ignored)


def write(folder: Path, config: ClassifierConfig, arrays: Arrays) -> None:
    """Writes `config.json` and the safetensors of a classifier; raises ValueError for one that pools otherwise."""
    fields = fields_of(config)
    write_safetensors_folder(folder, table(config).save(arrays), metadata={"format": "pt"})
    write_config(folder / "config.json", fields)


def fields_of(config: ClassifierConfig) -> dict:
    """The `config.json` of a classifier.

    Raises:
        ValueError: for a model that transformers has no class for.
    """
    vision = _own_vision(config)
    if vision.pooling != "gap" or vision.has_own_parts:
        raise ValueError(
            "transformers' classifier reads the mean of the patch tokens, of learned positions and with nothing behind "
            f'it, and this one has {vision}. Save it with format="diptych", or make the classifier with pooling="gap".'
        )
    kind = "siglip2" if isinstance(vision, NaFlexVisionConfig) else "siglip"
    return {
        "architectures": [CLASSES[kind]],
        "model_type": kind,
        "initializer_factor": 1.0,
        "dtype": "float32",
        "id2label": {str(number): name for number, name in enumerate(config.classes)},
        "label2id": {name: number for number, name in enumerate(config.classes)},
        "problem_type": SEVERAL if config.several_labels else SINGLE,
        "vision_config": transformers_fields.vision_fields(vision) | {"vision_use_head": False},
        "text_config": {"model_type": f"{kind}_text_model"},
    }


def _own_vision(config: ClassifierConfig) -> VisionConfig | NaFlexVisionConfig:
    if isinstance(config.vision, BiTConfig):
        raise ValueError(
            'transformers\' SiglipForImageClassification has no ResNet. Save it with format="big_vision", "timm" or '
            '"diptych".'
        )
    return config.vision
