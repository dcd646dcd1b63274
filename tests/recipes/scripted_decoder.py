"""A stage's model folder whose decoder writes the same tokens whatever it sees, so that a test foresees them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diptych.core.data.emoji.building.scene_tokenizer import VOCABULARY
from diptych.core.data.emoji.concepts import SCENE_TOKENIZER_PATH
from diptych.core.data.examples.captioning import CaptionTargets
from diptych.core.data.examples.preprocess import Preprocess
from diptych.engine.training.saved_model import save_trained
from diptych.models import NaFlexVisionConfig, SigLIPConfig, TextConfig, VisionConfig
from diptych.models.captioner.config import CaptionerConfig
from diptych.models.captioner.model import Captioner
from diptych.models.siglip.parts import DecoderPart
from diptych.models.siglip.student import Student

TOWER = {"width": 16, "depth": 1, "mlp_dim": 24, "num_heads": 2}
TEXT = TextConfig(**TOWER, vocab_size=VOCABULARY, context_length=6)
SQUARE = SigLIPConfig(vision=VisionConfig(**TOWER, patch_size=8, image_size=32), text=TEXT)
NAFLEX = SigLIPConfig(vision=NaFlexVisionConfig(**TOWER, patch_size=8, position_grid=4, max_num_patches=12), text=TEXT)
LENGTH = 56
DECODER = CaptionerConfig(
    width=64, depth=1, mlp_dim=24, num_heads=2, vocab_size=VOCABULARY, context_length=LENGTH, encoder_width=16
)
TARGETS = CaptionTargets(tokenizer_path=SCENE_TOKENIZER_PATH, context_length=LENGTH)

PHRASE, BOX = "red apple, green apple, red apple", (0.1, 0.2, 0.6, 0.9)
CAPTION, DESCRIPTION = "cat, dog", "cat"


def write_always(captioner: Captioner, script: Sequence[int]) -> None:
    """Makes the decoder write token script[j] at place j: nothing is left but its positions, which the logits tell
    apart.
    """
    weights = captioner.named_weights()
    width, vocabulary = weights["logits_kernel"].shape
    assert len(script) <= width
    for name, variable in weights.items():
        if name.endswith("out_kernel") or name == "token_embedding/embedding":
            variable.assign(np.zeros(variable.shape, np.float32))
    positions = np.eye(width, dtype=np.float32)[: len(script)]
    weights["position_embedding/embedding"].assign(positions)
    kernel = np.zeros((width, vocabulary), np.float32)
    kernel[np.arange(len(script)), list(script)] = 1
    weights["logits_kernel"].assign(kernel)


def script() -> list[int]:
    """After the prompts of the three questions, of different lengths: CAPTION, BOX for PHRASE, DESCRIPTION of any box
    as long as BOX.
    """
    end = TARGETS.tokenizer.eos_id
    prompts = [TARGETS.prompt("caption"), TARGETS.prompt("find", text=PHRASE), TARGETS.prompt("describe", box=BOX)]
    answers = [TARGETS._text(CAPTION), TARGETS._box(BOX), TARGETS._text(DESCRIPTION)]
    tokens = [end] * LENGTH
    for prompt, answer in zip(prompts, answers, strict=True):
        tokens[len(prompt) : len(prompt) + len(answer)] = answer
        tokens[len(prompt) + len(answer)] = end
    for prompt, answer in zip(prompts, answers, strict=True):
        assert tokens[len(prompt) : len(prompt) + len(answer) + 1] == [*answer, end], "answers overlap"
    return tokens


def save_stage(folder: Path, config: SigLIPConfig = SQUARE, *, decoder: bool = True) -> Path:
    """What a stage leaves behind."""
    student = Student(config, parts={"captioner": DecoderPart(config=DECODER)} if decoder else None)
    if decoder:
        write_always(student.captioner, script())
    preprocess = Preprocess(
        image_size=32, context_length=6, tokenizer_path=SCENE_TOKENIZER_PATH, targets=TARGETS if decoder else None
    )
    save_trained(student, preprocess, folder)
    return folder
