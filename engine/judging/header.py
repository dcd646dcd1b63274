"""The beginning of what commands store of their results."""

from diptych import backends
from diptych.core.evaluation.judged import Header
from diptych.core.training.card import plain, versions


def header(format: str, version: int, options: object) -> Header:
    """Of results in a format, that a command with these options found here."""
    return {
        "format": format,
        "version": version,
        "options": plain(options),
        "backend": backends.name(),
        "device": backends.device_name(),
        "versions": versions(backends.name()),
    }
