"""The questions that the server takes as JSON: one table, which checks requests and describes them as OpenAPI 3.1."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from diptych.engine.serving.answers import MOST_CHARACTERS, MOST_FOUND, MOST_LABELS
from diptych.engine.serving.kept_pictures import from_base64
from diptych.engine.serving.protocol import (
    Answer,
    HeatMaps,
    ModelFacts,
    Nearest,
    Probabilities,
)
from diptych.engine.serving.refusals import Refused
from diptych.engine.serving.schema import Bound, check, components_of, schema_of

MOST_PICTURE_BYTES = 10_000_000
MOST_PICTURES_BYTES = 20_000_000
MOST_JSON_BYTES = 100_000
MOST_IMAGES = 16
MOST_TEXTS = 64

Text = Annotated[str, Bound(least=1, most=MOST_CHARACTERS)]
Labels = Annotated[list[Text], Bound(least=1, most=MOST_LABELS, says="They differ.")]
Picture = Annotated[
    str, Bound(least=1, says="A JPEG, PNG, WebP or GIF file in base64, with or without data:...;base64, before it.")
]
Pictures = Annotated[list[Picture], Bound(least=1, most=MOST_IMAGES)]
Name = Annotated[str, Bound(says="What /api/picture calls a picture that was sent to it.")]
Template = Annotated[str, Bound(least=2, most=MOST_CHARACTERS, says='What labels are put into: "a photo of a {}".')]
Count = Annotated[int, Bound(least=1, most=MOST_FOUND)]


class EmbedRequest(TypedDict):
    """Pictures, texts, or both."""

    images: NotRequired[Pictures]
    texts: NotRequired[Annotated[list[Text], Bound(least=1, most=MOST_TEXTS)]]


class Embedded(TypedDict):
    """Vectors of length one, in the order of what was sent."""

    images: list[list[float]]
    texts: list[list[float]]


class ZeroShotRequest(TypedDict):
    """Pictures, and what each of them might be."""

    images: Pictures
    labels: Labels
    template: NotRequired[Template]


class ZeroShot(TypedDict):
    """For each picture its labels, best first."""

    results: list[Probabilities]


class SearchRequest(TypedDict):
    """A text or a picture, and how many images to find."""

    text: NotRequired[Text]
    image: NotRequired[Picture]
    count: NotRequired[Count]


class AskRequest(TypedDict):
    """A picture and a prompt, as a PaliGemma was trained to take it: "caption en", "detect cat", "segment cat"."""

    image: Picture
    prompt: Text


class PageLabels(TypedDict):
    """Of the page: a picture that was sent, and labels."""

    picture: Name
    labels: list[str]


class PageSearch(TypedDict):
    """Of the page: a text, or a picture that was sent."""

    text: NotRequired[str | None]
    picture: NotRequired[str | None]


class PagePrompt(TypedDict):
    """Of the page: a picture that was sent, and a prompt."""

    picture: Name
    prompt: str


class Health(TypedDict):
    """How the program is: "loading", "ready" or "draining", and how many calls wait for the model."""

    status: str
    waiting: int
    most_waiting: int


class Trouble(TypedDict):
    """What is wrong, in a sentence."""

    error: str


@dataclass(frozen=True)
class Operation:
    """One question.

    Attributes:
        offered_by: which models answer it, "pair" or "ask".
        run: of the server's answers and the checked request.
        most_bytes: of the request.
        of_the_page: whether the page alone asks it; such are not described.
    """

    request: Any
    answer: Any
    offered_by: Literal["pair", "ask"]
    summary: str
    run: Callable[[Any, Any], Any]
    most_bytes: int = MOST_PICTURES_BYTES
    of_the_page: bool = False


def _embed(answers: Any, asked: EmbedRequest) -> Embedded:
    if not asked:
        raise Refused(400, "the body: got neither images nor texts, expected at least one of them.")
    images = answers.image_vectors(_files(asked["images"])).tolist() if "images" in asked else []
    texts = answers.text_vectors(asked["texts"]).tolist() if "texts" in asked else []
    return {"images": images, "texts": texts}


def _zero_shot(answers: Any, asked: ZeroShotRequest) -> ZeroShot:
    template = asked.get("template")
    if template is not None and template.count("{}") != 1:
        raise Refused(400, f"template: got {template!r}, expected one that holds {{}} exactly once.")
    vectors = answers.image_vectors(_files(asked["images"]))
    return {"results": [{"labels": answers.scores(vector, asked["labels"], template)} for vector in vectors]}


def _search(answers: Any, asked: SearchRequest) -> Nearest:
    count = asked.get("count", 24)
    if ("text" in asked) == ("image" in asked):
        raise Refused(400, f"the body: got {' and '.join(asked) or 'nothing'}, expected text or image.")
    if "text" in asked:
        return answers.search(text=asked["text"], count=count)
    return answers.near(answers.image_vectors([from_base64(asked["image"], "image")])[0], count)


def _files(pictures: list[str]) -> list[bytes]:
    return [from_base64(text, f"images[{place}]") for place, text in enumerate(pictures)]


OPERATIONS = {
    "/v1/embed": Operation(EmbedRequest, Embedded, "pair", "Vectors of pictures and texts.", _embed),
    "/v1/zero-shot": Operation(ZeroShotRequest, ZeroShot, "pair", "Which label fits each picture.", _zero_shot),
    "/v1/search": Operation(
        SearchRequest, Nearest, "pair", "The indexed images nearest to a text or picture.", _search
    ),
    "/v1/ask": Operation(
        AskRequest,
        Answer,
        "ask",
        "What a PaliGemma answers to a prompt about a picture.",
        lambda answers, asked: answers.ask_about(from_base64(asked["image"], "image"), asked["prompt"]),
        2 * MOST_PICTURE_BYTES,
    ),
    "/api/probabilities": Operation(
        PageLabels,
        Probabilities,
        "pair",
        "Of a picture that was sent.",
        lambda answers, asked: answers.probabilities(**asked),
        MOST_JSON_BYTES,
        of_the_page=True,
    ),
    "/api/heat_maps": Operation(
        PageLabels,
        HeatMaps,
        "pair",
        "Where the model looks.",
        lambda answers, asked: answers.heat_maps(**asked),
        MOST_JSON_BYTES,
        of_the_page=True,
    ),
    "/api/search": Operation(
        PageSearch,
        Nearest,
        "pair",
        "What is nearest.",
        lambda answers, asked: answers.search(**asked),
        MOST_JSON_BYTES,
        of_the_page=True,
    ),
    "/api/ask": Operation(
        PagePrompt,
        Answer,
        "ask",
        "Of a picture that was sent.",
        lambda answers, asked: answers.ask(**asked),
        MOST_JSON_BYTES,
        of_the_page=True,
    ),
}
_OFFERS = {
    "pair": "it needs a model of two towers, such as a SigLIP: POST /v1/ask is what this one answers",
    "ask": "it needs a PaliGemma, given as --model",
}


def answered(path: str, answers: Any, asked: Any) -> Any:
    """The answer to a request of JSON; raises `Refused` for one that is not of the operation's form."""
    operation = OPERATIONS[path]
    check(asked, operation.request)
    if operation.offered_by not in answers.offers:
        raise Refused(409, f"This model does not answer {path}: {_OFFERS[operation.offered_by]}.")
    return operation.run(answers, asked)


@cache
def openapi(version: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document of all that programs may ask."""
    paths: dict[str, Any] = {
        "/health": {"get": _described("health", "Whether questions are answered now.", Health, token=False)},
        "/v1/model": {"get": _described("model", "Which model answers.", ModelFacts)},
    }
    kinds: list[Any] = [Health, ModelFacts, Trouble]
    for path, operation in OPERATIONS.items():
        if not operation.of_the_page:
            name = path.rpartition("/")[2].replace("-", "_")
            body = {"required": True, "content": _json(operation.request)}
            paths[path] = {"post": _described(name, operation.summary, operation.answer) | {"requestBody": body}}
            kinds += [operation.request, operation.answer]
    return {
        "openapi": "3.1.0",
        "info": {"title": "diptych", "version": version, "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}},
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": components_of(kinds),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _described(name: str, summary: str, answer: Any, *, token: bool = True) -> dict[str, Any]:
    trouble = {"description": "What is wrong.", "content": _json(Trouble)}
    busy = {
        "description": "Too much waits, or the program is loading or ending: ask again after Retry-After seconds.",
        "headers": {"Retry-After": {"schema": {"type": "integer"}}},
        "content": _json(Trouble if token else Health),
    }
    return {
        "operationId": name,
        "summary": summary,
        "security": [{"token": []}, {}] if token else [],
        "responses": {
            "200": {"description": "The answer.", "content": _json(answer)},
            "503": busy,
            **({"4XX": trouble, "500": trouble} if token else {}),
        },
    }


def _json(kind: Any) -> dict[str, Any]:
    return {"application/json": {"schema": schema_of(kind)}}
