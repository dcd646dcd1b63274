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


class ModelFacts(TypedDict):
    """Which model answers: its name, its class, where it is from, its size, and what its vectors are like."""

    name: str
    kind: str
    source: str
    parameters: int
    dim: int | None  # of a vector
    logit_scale: float | None
    logit_bias: float | None  # None for a model trained by a softmax loss
    images: int  # that can be searched


class About(TypedDict):
    """What the page shows before anything is asked."""

    model: ModelFacts
    asks: bool  # whether it answers prompts, and has neither labels nor a gallery
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
    read_as: str | None  # the text as the model was given it, emoji in words where it spells them; None for pictures


class FoundThing(TypedDict):
    """A thing that an answer names a place of: [top, left, bottom, right] in pixels."""

    label: str
    box: list[int]
    mask: bool  # whether the answer has the codes of a mask for it


class Answer(TypedDict):
    """What a model says to a prompt about a picture."""

    answer: str
    found: list[FoundThing]
    unreadable: list[str]  # parts that have tokens of places and are no boxes
    drawn: str | None  # the picture with what was found, PNG as a data address; None where nothing was
    seconds: float
