"""Scalars for TensorBoard, through the optional package tensorboardX."""

import numbers
import os
from collections.abc import Mapping
from pathlib import Path


class TensorBoard:
    """Writes the numbers of each row as scalars into `folder`; TensorBoard then hides what a killed run wrote after `resume_step`."""

    def __init__(self, folder: str | Path, *, resume_step: int = 0):
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise ImportError("TensorBoard files need tensorboardX: pip install 'diptych[tensorboard]'") from error
        # The package names a file after the second it was made in, and would overwrite that of a run restarted within it.
        suffix = f".{os.getpid()}.{resume_step}"
        self._writer = SummaryWriter(str(folder), purge_step=resume_step + 1, filename_suffix=suffix)

    def write(self, step: int, values: Mapping[str, object]) -> None:
        """Add every value that is one number; other values stay in the metrics file only."""
        for name, value in values.items():
            value = value.item() if hasattr(value, "item") else value
            if isinstance(value, numbers.Real):
                self._writer.add_scalar(name, float(value), step)

    def close(self) -> None:
        self._writer.close()


def tensorboard_if_installed(folder: str | Path, *, resume_step: int = 0) -> tuple[TensorBoard | None, str]:
    """A writer where tensorboardX is installed, else None; and a sentence for the user that says which."""
    try:
        return TensorBoard(folder, resume_step=resume_step), f"TensorBoard: tensorboard --logdir {folder}"
    except ImportError as error:
        return None, f"No TensorBoard files: {error}"
