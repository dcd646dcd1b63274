"""Names near to one that was typed."""

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str], *, most: int = 1) -> str:
    """A question to end a message with, " Did you mean B/16?"; nothing where no known name is near.

    Args:
        word: what was typed; capitals do not matter.
        known: the names that there are.
        most: how many of them to ask for.
    """
    spelled = {name.lower(): name for name in known}
    near = [spelled[name] for name in difflib.get_close_matches(word.lower(), spelled, n=most)]
    return f" Did you mean {' or '.join(near)}?" if near else ""
