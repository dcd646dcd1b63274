"""Errors that the person in front of the screen can mend, those of weights and of the files they are in among them."""


class Failure(RuntimeError):
    """Something that did not work and that the person can mend; the message is a sentence that says how."""


class WeightFileError(ValueError):
    """A file that is not of its format, is damaged, could run code, or asks for more than its format's limits."""


class HubError(Failure):
    """A model that could not be fetched from the hub; the message says why and what to do."""
