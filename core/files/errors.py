"""Errors of weights and of the files they are in."""


class WeightFileError(ValueError):
    """A file that is not of its format, is damaged, could run code, or asks for more than its format's limits."""


class HubError(RuntimeError):
    """A model that could not be fetched from the hub; the message says why and what to do."""
