"""The configuration of a GPT that answers a task beside predicting tokens, and its parameters by arithmetic."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from diptych.core.data.text_tasks.layouts import SPECIAL_TOKENS, SpecialIds, shortest_length
from diptych.core.data.text_tasks.task import TextTask
from diptych.models.gpt.config import GPTConfig, count_gpt_parameters
from diptych.models.parts.config_checks import require


@dataclass(frozen=True, kw_only=True)
class GPTDoubleHeadsConfig:
    """A GPT with a linear head on its state at the extract token (Radford et al. 2018, section 3.2)."""

    describes: ClassVar[str] = "GPTDoubleHeads"
    decoder: GPTConfig
    """Of the decoder; the last three rows of its token table are the special tokens."""
    task: TextTask
    """What the head answers."""
    length: int | None = None
    """Tokens of the longest sequence that it is trained on; None for all places of the decoder."""
    head_dropout: float = 0.1
    """Of what the head reads, in training; one mask for all sequences of an example, as in the released code."""

    def __post_init__(self):
        if isinstance(self.decoder, Mapping):
            object.__setattr__(self, "decoder", GPTConfig(**self.decoder))
        if isinstance(self.task, Mapping):
            fields = {name: tuple(part) if isinstance(part, list) else part for name, part in self.task.items()}
            object.__setattr__(self, "task", TextTask(**fields))
        require(0 <= self.head_dropout < 1, f"head_dropout must be at least 0 and below 1, got {self.head_dropout!r}.")
        require(
            self.decoder.vocab_size > len(SPECIAL_TOKENS),
            f"vocab_size must hold a vocabulary and {len(SPECIAL_TOKENS)} special tokens behind it, got "
            f"{self.decoder.vocab_size}.",
        )
        needed, most = shortest_length(self.task.layout), self.decoder.context_length
        require(most >= needed, f"The layout {self.task.layout} needs {needed} positions or more, got {most}.")
        require(
            self.length is None or 3 <= self.length <= most,
            f"length must be 3 to the decoder's {most} positions, got {self.length}.",
        )

    @property
    def context_length(self) -> int:
        """Tokens of a sequence."""
        return self.length or self.decoder.context_length

    @property
    def special(self) -> SpecialIds:
        """The ids of the special tokens."""
        return SpecialIds.behind(self.decoder.vocab_size - len(SPECIAL_TOKENS))

    @property
    def head_outputs(self) -> int:
        """Numbers that the head makes of a state: one of each answer to choose from, else one for each answer."""
        return 1 if self.task.choices else self.task.outputs


def count_double_heads_parameters(config: GPTDoubleHeadsConfig) -> dict[str, int]:
    """As `count_gpt_parameters`, with "head"."""
    parts = count_gpt_parameters(config.decoder)
    head = (config.decoder.width + 1) * config.head_outputs
    return {**parts, "head": head, "total": parts["total"] + head}
