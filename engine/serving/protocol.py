"""The shapes of the server's answers, which the page's script reads as JSON."""

from typing import TypedDict

from diptych.engine.judging.zero_shot_results import LabelScore
from diptych.engine.serving.galleries import Example


class Searched(TypedDict):
    """The gallery that is searched."""

    name: str
    rows: int


class Language(TypedDict):
    """A language that all examples have names in."""

    code: str
    name: str


class Limits(TypedDict):
    """The most that may be asked at a time."""

    labels: int
    characters: int  # of a label


class About(TypedDict):
    """What the page shows before anything is asked."""

    model: str
    sigmoid: bool  # whether the model has a probability for each pair
    template: str
    attention: bool  # whether it shows what it attends to
    gallery: Searched
    examples: list[Example]
    languages: list[Language]
    queries: list[str]
    limits: Limits


class KeptPicture(TypedDict):
    """A picture that is remembered."""

    picture: str  # the name to ask by
    height: int
    width: int


class Probabilities(TypedDict):
    """Labels, best first."""

    labels: list[LabelScore]


class Layer(TypedDict):
    """A map of where a model looks."""

    overlay: str  # PNG as a data address, to be laid on the picture
    values: list[list[float]]  # [rows][columns]: of a label in logits, of attention each patch's share
    limit: float  # the largest value, without its sign


class LabelMap(Layer):
    """What speaks for a label, and against it."""

    label: str


class AttentionMap(Layer):
    """What the pooling attends to."""

    even: float  # the share that each patch would have of even attention


class HeatMaps(TypedDict):
    """Maps of all labels, and of attention; None for models without."""

    maps: list[LabelMap]
    attention: AttentionMap | None


class NearRow(TypedDict):
    """A row of the gallery that is near."""

    row: int
    caption: str
    cosine: float
    probability: float | None  # of the pair; None for pictures and for models without a bias


class Nearest(TypedDict):
    """The rows nearest to a query, best first."""

    results: list[NearRow]
    seconds: float  # of looking through the gallery
