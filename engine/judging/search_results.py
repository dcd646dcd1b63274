"""The results of a search: as plain values for JSON, as tables for the terminal, as a gallery."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from diptych.core.data.image import decode
from diptych.core.data.records import BadExample, Source
from diptych.core.data.sources.open import open_source
from diptych.core.evaluation.calibration import sigmoid
from diptych.core.evaluation.nearest import NOT_FOUND
from diptych.core.report.charts.axes import probability
from diptych.core.report.charts.sheet import square, write_page
from diptych.core.report.search_page import Answered, Hit, search_page
from diptych.engine.embedding.index_folder import IndexFolder


class FoundRow(TypedDict):
    """One image or caption that was found."""

    row: int  # of the index
    cosine: float
    probability: float | None  # that both belong together; None for two of a kind and for models without a bias
    key: str
    image: str
    caption: str
    language: str
    record: int  # place in the data
    number: int  # of the image or caption in the record


class Found(TypedDict):
    """What was found for one query, best first."""

    query: str  # a text, or the path of a picture
    kind: str  # "text" or "image"
    results: list[FoundRow]


class SearchResult(TypedDict):
    """A search, whole."""

    index: str
    model: str
    data: str
    among: str  # "images" or "texts"
    implementation: str
    rows: int  # that were looked through
    index_finished: bool
    seconds: float
    queries: list[Found]


def results(
    options: Any,
    folder: IndexFolder,
    encoder: Any,
    names: Sequence[str],
    texts: int,
    scores: np.ndarray,
    indices: np.ndarray,
    seconds: float,
) -> SearchResult:
    """Everything that was found, ready for JSON.

    Args:
        options: the `Search` that was asked for.
        folder: the index.
        encoder: its model.
        names: [queries], the texts first, then the pictures' paths.
        texts: how many of the queries are texts.
        scores, indices: [queries, found], as of `nearest`.
        seconds: that the search took.
    """
    rows = dict(zip(places, folder.rows(places, options.among), strict=True)) if (places := _distinct(indices)) else {}
    queries: list[Found] = []
    for number, name in enumerate(names):
        kind = "text" if number < texts else "image"
        found: list[FoundRow] = []
        for score, row in zip(scores[number].tolist(), indices[number].tolist(), strict=True):
            if row == NOT_FOUND:
                continue
            item = rows[row]
            # The sigmoid was trained on pairs of an image and a text; of two of a kind it knows nothing.
            pairs = (kind == "text") == (options.among == "images")
            likely = pair_probability(encoder, score) if pairs else None
            found.append(
                {
                    "row": row,
                    "cosine": score,
                    "probability": likely,
                    "key": item.key,
                    "image": item.image,
                    "caption": item.caption,
                    "language": item.language,
                    "record": item.record,
                    "number": item.number,
                }
            )
        queries.append({"query": name, "kind": kind, "results": found})
    return {
        "index": str(folder.path),
        "model": folder.card["model"],
        "data": folder.card["data"],
        "among": options.among,
        "implementation": options.implementation,
        "rows": folder.count(options.among),
        "index_finished": folder.card["finished"],
        "seconds": seconds,
        "queries": queries,
    }


def pair_probability(encoder: Any, cosine: float) -> float | None:
    """That an image and a text belong together, by the sigmoid of the model; None for a model without a bias."""
    if encoder.logit_bias is None:
        return None
    return float(sigmoid(np.float64(encoder.logit_scale) * cosine + encoder.logit_bias))


def print_tables(found: SearchResult) -> None:
    """One table a query."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    for answer in found["queries"]:
        table = Table(
            title=f"{answer['kind']}: {escape(answer['query'])}", title_justify="left", box=None, pad_edge=False
        )
        for name in ("", "probability", "cosine"):
            table.add_column(name, justify="right")
        table.add_column("caption", overflow="fold")
        table.add_column("key", style="dim", overflow="fold")
        for rank, hit in enumerate(answer["results"], 1):
            likely = "–" if hit["probability"] is None else probability(hit["probability"])
            table.add_row(str(rank), likely, f"{hit['cosine']:.3f}", escape(hit["caption"]), escape(hit["key"]))
        console.print(table)
        console.print()
    console.print(_summary(found), highlight=False, markup=False)


def page(path: Path, found: SearchResult, folder: IndexFolder, pictures: Mapping[Path, bytes]) -> Path:
    """Writes the gallery; an image that is not where it was gets a placeholder.

    Args:
        path: of the HTML file.
        found: everything that was.
        folder: the index; its images are read from the data that it was made of.
        pictures: the pictures that were asked for, by path.
    """
    captions = found["among"] == "texts"
    source = None if captions else _reopened(folder)
    asked = {str(name): square(decode(data)) for name, data in pictures.items()}
    answers = [
        Answered(
            text=Path(answer["query"]).name if answer["kind"] == "image" else answer["query"],
            picture=asked.get(answer["query"]) if answer["kind"] == "image" else None,
            hits=[_hit(hit, source) for hit in answer["results"]],
        )
        for answer in found["queries"]
    ]
    title = f"Found in {Path(found['data']).name}"
    return write_page(path, search_page(title, _summary(found), answers, captions=captions))


def _summary(found: SearchResult) -> str:
    how = {
        "exact": "Exact search",
        "faiss": "Exact search by faiss",
        "faiss_hnsw": "Approximate search by faiss (HNSW)",
    }
    unfinished = "" if found["index_finished"] else " The index is not finished yet."
    return (
        f"{how[found['implementation']]} among {found['rows']:,} {found['among']} embedded by "
        f"{Path(found['model']).name}, {1000 * found['seconds']:,.1f} ms for {len(found['queries'])} "
        f"{'query' if len(found['queries']) == 1 else 'queries'}.{unfinished}"
    )


def _hit(hit: FoundRow, source: Source | None) -> Hit:
    return Hit(
        cosine=hit["cosine"],
        pair_probability=hit["probability"],
        caption=hit["caption"],
        language=hit["language"],
        where=hit["key"],
        picture=None if source is None else _picture(source, hit),
    )


def _picture(source: Source, hit: FoundRow) -> np.ndarray | None:
    """The image as a small square; None where the data no longer hold what they held."""
    try:
        record = source.record(hit["record"])
        return square(decode(source.read(record.images[hit["number"]])))
    except (BadExample, IndexError):
        return None


def _reopened(folder: IndexFolder) -> Source | None:
    """The data that the index was made of; None, with a word about it, where they have changed or gone."""
    data = folder.card["data"]
    try:
        source = open_source(data, index_folder=folder.path / "shards", reading=folder.reading)
    except (OSError, ValueError) as error:
        print(f"The images are not where they were, so the gallery is without them: {error}")
        return None
    if source.fingerprint() != folder.card["data_fingerprint"]:
        print(
            f"{data} has changed since it was embedded, so the gallery is without images. Embed it anew into another "
            "folder."
        )
        return None
    return source


def _distinct(indices: np.ndarray) -> list[int]:
    return [int(index) for index in np.unique(indices) if index != NOT_FOUND]
