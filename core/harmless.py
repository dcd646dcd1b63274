"""The mark of options that change how something is carried out or shown, not what it computes."""

from dataclasses import field
from typing import Any

HARMLESS = "harmless"


def harmless(default: Any) -> Any:
    """A field that changes how a run is carried out or shown, not what it computes: runs that differ in it continue
    each other.
    """
    return field(default=default, metadata={HARMLESS: True})
