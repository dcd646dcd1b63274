"""The models that a stage leaves: towers and processor as a preset's folder, and the decoder beside them."""

from pathlib import Path

from diptych.core.data.examples.captioning import CaptionTargets
from diptych.core.data.examples.naflex import NaFlex
from diptych.core.data.examples.preprocess import Preprocess
from diptych.core.data.pixels import FixedSize
from diptych.core.data.processor.processor import Processor
from diptych.engine.training.targets_file import write_targets
from diptych.models import NaFlexVisionConfig
from diptych.models.siglip.config import PairConfig
from diptych.models.siglip.student import Student


def save_trained(student: Student, preprocess: Preprocess, folder: Path) -> None:
    """Writes a folder that `SigLIP.from_preset` and `Processor.from_preset` read, with a decoder where there is one."""
    save_merged(student, folder)
    trained_processor(student.config, preprocess).save_to_preset(folder)
    if student.captioner is not None and isinstance(preprocess.targets, CaptionTargets):
        student.captioner.save_to(folder)
        write_targets(folder, preprocess.targets)


def save_merged(student: Student, folder: Path) -> None:
    """Writes the model of a student, with low-rank adapters added to the kernels that they belong to, and kept as a
    small file beside it.
    """
    with student.merged():
        student.towers.save_to_preset(folder, format="diptych")
    if student.adapters is not None:
        student.adapters.save_to(folder)


def trained_processor(config: PairConfig, preprocess: Preprocess) -> Processor:
    """What prepares pictures and texts for the towers of a stage as its preprocessing does."""
    vision = config.vision
    pixels: FixedSize | NaFlex
    if isinstance(vision, NaFlexVisionConfig):
        pixels = NaFlex(
            patch_size=vision.patch_size,
            max_num_patches=vision.max_num_patches,
            resize=preprocess.resize_method,
            normalization=preprocess.normalization,
        )
    else:
        pixels = preprocess.fixed_size(vision.image_size)
    return Processor(pixels=pixels, tokenizer=preprocess.tokenizer, context_length=preprocess.context_length)
