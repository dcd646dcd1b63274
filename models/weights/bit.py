"""BiT's ResNets in the files of others: big_vision's two kinds, the released checkpoints, timm.

| names | network | sources |
|---|---|---|
| `conv_root/kernel`, `block1/unit1/gn1/scale` | post-activation | big_vision `models/bit.py` |
| `root_block/conv_root/kernel`, `block1/unit01/gn1/scale` | pre-activation | big_vision `models/bit_paper.py` |
| `resnet/block1/unit01/a/group_norm/gamma` | pre-activation | google-research/big_transfer, `BiT-M-R50x1.npz` |
| `stages.0.blocks.0.norm1.weight` | pre-activation | timm `resnetv2_50x1_bit` |

Files tell stages, units and width by their shapes, and neither the number of groups, which is 32 wherever the width
allows it, nor the pictures' size, nor what the classes are called.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from diptych.core.files.json_objects import write_config
from diptych.core.weights.files import WeightFiles
from diptych.core.weights.mapping import CONV, SAME, Arrays, Layout, Rule, Table
from diptych.core.weights.npz import write_npz
from diptych.core.weights.safetensors import write_safetensors_folder
from diptych.models.bit.config import STAGE_DEPTHS, BiTConfig, UnitSize
from diptych.models.classifier.config import ClassifierConfig
from diptych.models.siglip.config import SigLIPConfig, image_alone

NUM_GROUPS = 32
FILE, PREFIX = "weights.npz", "params/"
TIMM_NAME = re.compile(r"resnetv2_\d+x\d+_bit(\..*)?")
"""Of timm's models, with the tag of their training."""
TIMM_EPSILON = 1e-8
TIMM_SIZES = {
    "50x1": (50, 1),
    "50x3": (50, 3),
    "101x1": (101, 1),
    "101x3": (101, 3),
    "152x2": (152, 2),
    "152x4": (152, 4),
}
"""Layers and width factor of timm's `resnetv2_*_bit`."""


def _behind(axes: int) -> Layout:
    """So many axes of one in front that only they have."""
    ones = tuple(range(axes))
    return Layout(
        lambda arrays: [np.squeeze(arrays[0], axis=ones)],
        lambda arrays, _: [np.expand_dims(arrays[0], axis=ones)],
    )


_TIMM_HEAD = Layout(
    lambda arrays: [arrays[0][:, :, 0, 0].T],
    lambda arrays, _: [arrays[0].T[:, :, None, None]],
)
"""A 1 x 1 convolution [classes, channels, 1, 1] and a kernel [channels, classes]."""


@dataclass(frozen=True, kw_only=True)
class _Names:
    """What one kind of files calls things, and how they lie there.

    Attributes:
        stem, head: of the first kernel, and of the head, without "kernel" and "bias".
        first_norm, last_norm: of the stem's norm, where there is one, and of the one in front of the pooling.
        unit: gives the beginning of a unit's names.
        conv, norm: follow it, with the number of the convolution from 1, or its letter.
        projection, projection_norm: follow it, of the shortcut.
        kernel, scale, bias: what the parts of a layer are called.
        kernel_layout, norm_layout, head_layout: see `Layout`.
    """

    stem: str
    head: str
    first_norm: str = ""
    last_norm: str = ""
    unit: Callable[[UnitSize], str]
    conv: Callable[[int], str]
    norm: Callable[[int], str]
    projection: str
    projection_norm: str = ""
    parts: tuple[str, str, str] = ("/kernel", "/scale", "/bias")
    kernel_layout: Layout = SAME
    norm_layout: Layout = SAME
    head_layout: Layout = SAME


POST_ACTIVATION = _Names(
    stem="conv_root",
    head="head",
    first_norm="gn_root",
    unit=lambda unit: f"block{unit.stage}/unit{unit.place + 1}/",
    conv=lambda number: f"conv{number}",
    norm=lambda number: f"gn{number}",
    projection="conv_proj",
    projection_norm="gn_proj",
)
PRE_ACTIVATION = _Names(
    stem="root_block/conv_root",
    head="head",
    last_norm="norm-pre-head",
    unit=lambda unit: f"block{unit.stage}/unit{unit.place + 1:02d}/",
    conv=lambda number: f"conv{number}",
    norm=lambda number: f"gn{number}",
    projection="conv_proj",
    norm_layout=_behind(3),
)
RELEASED = _Names(
    stem="resnet/root_block/standardized_conv2d",
    head="resnet/head/conv2d",
    last_norm="resnet/group_norm",
    unit=lambda unit: f"resnet/block{unit.stage}/unit{unit.place + 1:02d}/",
    conv=lambda number: f"{'abc'[number - 1]}/standardized_conv2d",
    norm=lambda number: f"{'abc'[number - 1]}/group_norm",
    projection="a/proj/standardized_conv2d",
    parts=("/kernel", "/gamma", "/beta"),
    head_layout=_behind(2),
)
TIMM = _Names(
    stem="stem.conv",
    head="head.fc",
    last_norm="norm",
    unit=lambda unit: f"stages.{unit.stage - 1}.blocks.{unit.place}.",
    conv=lambda number: f"conv{number}",
    norm=lambda number: f"norm{number}",
    projection="downsample.conv",
    parts=(".weight", ".weight", ".bias"),
    kernel_layout=CONV,
    head_layout=_TIMM_HEAD,
)
_NPZ = (POST_ACTIVATION, PRE_ACTIVATION, RELEASED)


def _plain(name: str) -> str:
    """A name without what some files put before or into it: `params/`, numbers of the layers of one kind."""
    return re.sub(r"standardized_conv2d_\d+", "standardized_conv2d", name.removeprefix(PREFIX))


def kind_of(names: Iterable[str]) -> _Names | None:
    """Which of big_vision's and the released files have these names; None for none."""
    there = set(map(_plain, names))
    return next((kind for kind in _NPZ if f"{kind.stem}/kernel" in there), None)


def vision_of(shapes: Mapping[str, tuple[int, ...]], kind: _Names, **fields) -> BiTConfig:
    """The image tower whose names and shapes these are; `fields` are what shapes do not tell."""
    plain = {_plain(name): shape for name, shape in shapes.items()}
    stem = plain[f"{kind.stem}{kind.parts[0]}"]
    width = stem[0] if kind is TIMM else stem[-1]
    depths: list[int] = []
    while True:
        places = 0
        while _first_kernel(kind, len(depths) + 1, places) in plain:
            places += 1
        if not places:
            break
        depths.append(places)
    return BiTConfig(
        stage_depths=tuple(depths),
        width=width,
        num_groups=math.gcd(NUM_GROUPS, width),
        pre_activation=kind is not POST_ACTIVATION,
        **fields,
    )


def _first_kernel(kind: _Names, stage: int, place: int) -> str:
    return f"{kind.unit(UnitSize(stage, place, 0, 0, 1))}{kind.conv(1)}{kind.parts[0]}"


def rules(
    config: ClassifierConfig | SigLIPConfig, kind: _Names, shapes: Mapping[str, tuple[int, ...]] | None = None
) -> list[Rule]:
    """Every weight of the tower and, of a classifier, its head; `shapes` are those of the files, without which names
    are those that are written.
    """
    vision = _bit(config)
    real = {} if shapes is None else {_plain(name): name for name in shapes}
    kernel, scale, bias = kind.parts

    def rule(ours: str, theirs: str, layout: Layout) -> Rule:
        return Rule(ours, real.get(theirs, theirs), layout)

    def normed(ours: str, theirs: str) -> list[Rule]:
        stored = None if shapes is None else shapes.get(real.get(f"{theirs}{scale}", ""))
        layout = kind.norm_layout if stored is None else _behind(len(stored) - 1)  # older files have four axes
        return [rule(f"{ours}/scale", f"{theirs}{scale}", layout), rule(f"{ours}/bias", f"{theirs}{bias}", layout)]

    found = [rule("image/stem/conv/kernel", f"{kind.stem}{kernel}", kind.kernel_layout)]
    found += normed("image/stem/norm", kind.first_norm) if kind.first_norm else []
    found += normed("image/norm", kind.last_norm) if kind.last_norm else []
    for unit in vision.units():
        ours, theirs = f"image/{unit.path}", kind.unit(unit)
        for number in (1, 2, 3):
            name = f"{theirs}{kind.conv(number)}{kernel}"
            found.append(rule(f"{ours}/conv_{number}/kernel", name, kind.kernel_layout))
            found += normed(f"{ours}/norm_{number}", f"{theirs}{kind.norm(number)}")
        if unit.projects:
            name = f"{theirs}{kind.projection}{kernel}"
            found.append(rule(f"{ours}/shortcut_conv/kernel", name, kind.kernel_layout))
            if kind.projection_norm:
                found += normed(f"{ours}/shortcut_norm", f"{theirs}{kind.projection_norm}")
    if isinstance(config, ClassifierConfig):
        found.append(rule("classifier/kernel", f"{kind.head}{kernel}", kind.head_layout))
        found.append(rule("classifier/bias", kind.head + kernel[0] + "bias", SAME))
    return found


def npz_config_of(files: WeightFiles) -> ClassifierConfig | SigLIPConfig:
    """The classifier in an .npz file, or the tower alone where there is no head; the classes have no names there."""
    kind = kind_of(files.shapes)
    if kind is None:
        raise ValueError(f"{files.source} is no ResNet of big_vision or BiT.")
    vision = vision_of(files.shapes, kind)
    heads = [shape for name, shape in files.shapes.items() if _plain(name) == f"{kind.head}/bias"]
    return _around(vision, heads[0][0] if heads else 0)


def timm_config_of(fields: Mapping, files: WeightFiles) -> ClassifierConfig | SigLIPConfig:
    """The classifier, or the tower alone, in a folder of timm's."""
    size = (fields.get("pretrained_cfg") or {}).get("input_size") or (3, 224, 224)
    if f"{TIMM.stem}.weight" not in files.shapes:
        raise ValueError(f"{files.source} has no {TIMM.stem}.weight: it is no ResNet of timm's `resnetv2_*_bit`.")
    vision = vision_of(files.shapes, TIMM, image_size=size[-1], variance_epsilon=TIMM_EPSILON)
    bias = files.shapes.get(f"{TIMM.head}.bias", (0,))
    return _around(vision, bias[0], fields.get("label_names"))


def _around(vision: BiTConfig, classes: int, names: object = None) -> ClassifierConfig | SigLIPConfig:
    if not classes:
        return image_alone(vision)
    if not isinstance(names, list) or len(set(names)) != classes:
        names = [f"LABEL_{number}" for number in range(classes)]
    return ClassifierConfig(vision=vision, classes=tuple(names))


def npz_table(config: ClassifierConfig | SigLIPConfig, files: WeightFiles | None = None) -> Table:
    """Our names and those of an .npz file, without files those that are written."""
    written = PRE_ACTIVATION if _bit(config).pre_activation else POST_ACTIVATION
    if files is not None:
        return Table(rules(config, kind_of(files.shapes) or written, files.shapes))
    found = rules(config, written)
    return Table([Rule(rule.ours, [PREFIX + name for name in rule.theirs], rule.layout) for rule in found])


def timm_table(config: ClassifierConfig | SigLIPConfig, files: WeightFiles | None = None) -> Table:
    """Our names and timm's."""
    return Table(rules(config, TIMM))


def write_npz_file(folder: Path, config: ClassifierConfig, arrays: Arrays) -> None:
    """Writes one .npz file, `weights.npz`, with big_vision's names of either network; the classes' names are lost.

    Raises:
        ValueError: for a tower of another kind, and for a projection, which the layout has not.
    """
    if _bit(config).embed_dim:
        raise ValueError('big_vision\'s ResNets have no projection. Save it with format="diptych".')
    folder.mkdir(parents=True, exist_ok=True)
    write_npz(folder / FILE, npz_table(config).save(arrays))


def known_by_timm(vision: BiTConfig) -> str | None:
    """The size's name in timm, None where it has no such model."""
    for name, (layers, factor) in TIMM_SIZES.items():
        size = BiTConfig(stage_depths=STAGE_DEPTHS[layers], width=64 * factor, pre_activation=True)
        if vision == replace(size, image_size=vision.image_size, variance_epsilon=vision.variance_epsilon):
            return name
    return None


def write_timm(folder: Path, config: ClassifierConfig, arrays: Arrays) -> None:
    """Writes timm's `config.json` and `model.safetensors`.

    Raises:
        ValueError: for a network that timm has no model of.
    """
    vision = _bit(config)
    name = known_by_timm(vision)
    if name is None:
        raise ValueError(
            f"timm has BiT with pre-activation in the sizes {', '.join(TIMM_SIZES)}, and its post-activation networks "
            f'pad and standardise otherwise; this is {vision}. Save it with format="big_vision" or "diptych".'
        )
    write_safetensors_folder(folder, timm_table(config).save(arrays), metadata={"format": "pt"})
    classes = len(config.classes)
    fields = {
        "architecture": f"resnetv2_{name}_bit",
        "num_classes": classes,
        "num_features": vision.channels,
        "label_names": list(config.classes),
        "pretrained_cfg": {
            "input_size": [3, vision.image_size, vision.image_size],
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "interpolation": "bilinear",
            "num_classes": classes,
            "first_conv": TIMM.stem,
            "classifier": TIMM.head,
        },
    }
    write_config(folder / "config.json", fields)


def _bit(config: ClassifierConfig | SigLIPConfig) -> BiTConfig:
    if not isinstance(config.vision, BiTConfig):
        raise ValueError(
            f"This layout has ResNets of BiT's, and this model has a {config.vision.describes}. Save it with "
            'format="diptych".'
        )
    return config.vision
