"""Failures that the person can mend, which end a recipe with a sentence and not with a traceback."""

import os
import sys
from collections.abc import Callable

from diptych.core.data.ledger import TooManySkipped
from diptych.core.training.checkpoint import CheckpointError
from diptych.core.training.learner import TrainingDiverged
from diptych.core.training.run_folder import RunFolderError
from diptych.engine.embedding.index_folder import IndexFolderError

EXPECTED = (IndexFolderError, ImportError, OSError, TooManySkipped, ValueError)
TRAINING_ERRORS = (CheckpointError, RunFolderError, TooManySkipped, TrainingDiverged, FileNotFoundError, ValueError)


def exit_status(run: Callable[[], int], expected: tuple[type[Exception], ...] = EXPECTED) -> int:
    """What `run` returns; 1, and the error in a sentence, where it raises an expected one. DIPTYCH_TRACEBACK=1 shows it
    all.
    """
    try:
        return run()
    except expected as error:
        if os.environ.get("DIPTYCH_TRACEBACK"):
            raise
        print(f"\n{type(error).__name__}: {error}", file=sys.stderr)
        return 1
