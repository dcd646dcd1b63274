"""What goes wrong for reasons that the person can do something about ends a recipe with a sentence, not with a traceback."""

import os
import sys
from collections.abc import Callable

from diptych.recipes.index_folder import IndexFolderError

EXPECTED = (IndexFolderError, ImportError, OSError, ValueError)


def exit_status(run: Callable[[], int]) -> int:
    """What `run` returns; 1, and the error in a sentence, where it raises one of `EXPECTED`. DIPTYCH_TRACEBACK=1 shows it all."""
    try:
        return run()
    except EXPECTED as error:
        if os.environ.get("DIPTYCH_TRACEBACK"):
            raise
        print(f"\n{type(error).__name__}: {error}", file=sys.stderr)
        return 1
