"""Search in an index of embeddings: texts in any language that the model knows, or pictures, and what is nearest.

Command:   python -m recipes.search --query "red apple" "schwarzes Herz" "トラの顔"
Pictures:  python -m recipes.search --images photo.jpg
Captions:  python -m recipes.search --images photo.jpg --among texts    (of an index made with --texts)

Needs an index: `python -m recipes.embed` makes one of the embedded emoji. Prints a table for each query, and writes
results.json and a gallery, results.html. The search is exact and reads the vectors block after block, so an index may
be larger than memory.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from diptych.core.data.captions import clean_caption
from diptych.core.data.decoder import Decode
from diptych.core.data.records import BadExample
from diptych.core.data.sources.files import MAX_IMAGE_FILE_BYTES, read_regular_file
from diptych.core.evaluation.nearest import nearest
from diptych.core.files.json_objects import write_json
from diptych.engine.command_line import parse
from diptych.engine.datasets.open import known_data_set
from diptych.engine.embedding.faiss_search import nearest_by_faiss, nearest_by_hnsw
from diptych.engine.embedding.index_folder import IndexCard, IndexFolder, IndexFolderError
from diptych.engine.failures import exit_status
from diptych.engine.judging.search_results import page, print_tables, results


@dataclass(frozen=True, kw_only=True)
class Search:
    """What to look for, and where."""

    query: tuple[str, ...] = ()
    """Texts, in any language that the model knows."""
    images: tuple[Path, ...] = ()
    """Pictures."""
    index: Path = Path("runs/index")
    """A folder made by `recipes.embed`."""
    among: Literal["images", "texts"] = "images"
    """What to look through; texts where the index was made with --texts."""
    top_k: int = 12
    """How many to show for each query."""
    implementation: Literal["exact", "faiss", "faiss_hnsw"] = "exact"
    """exact needs nothing; faiss (pip install faiss-cpu) gives the same; faiss_hnsw is approximate, for many
    millions.
    """
    model: str | None = None
    """Where the index's model is now, if it has moved."""
    output: Path = Path("runs/search/results.json")
    """Results; the gallery is written beside it, as .html."""
    decode: Decode = "exact"
    """fast decodes JPEGs at a reduced scale and resizes by OpenCV (pip install 'diptych[fast]'), some grey levels off
    (docs/data.md); exact is Pillow."""

    def __post_init__(self):
        if self.top_k < 1:
            raise ValueError(f"--top-k must be at least 1, got {self.top_k}.")


def main(arguments: list[str] | None = None) -> int:
    """Searches; returns the exit status."""
    options = parse(Search(), arguments, program="python -m recipes.search", description=__doc__)
    from diptych.engine.embedding.encoder import Encoder

    return exit_status(lambda: search(options, Encoder.open), options)


def search(options: Search, open_encoder: Callable[[str], Any]) -> int:
    """Everything after the command line. `open_encoder` makes an encoder of the model's name: `Encoder.open`."""
    folder = IndexFolder(options.index)
    if not folder.has(options.among):
        raise ValueError(
            f"{options.index} holds no texts: python -m recipes.embed --index {options.index} --texts adds them."
        )
    texts, pictures = _queries(options, folder.card)
    encoder = _encoder_of(folder, options, open_encoder)
    queries = np.concatenate([encoder.embed_texts(list(texts)), encoder.embed_images(pictures)])
    vectors, usable = folder.vectors(options.among), folder.usable(options.among)
    began = time.perf_counter()
    scores, indices = _implementation(options, folder)(queries, vectors, options.top_k, allowed=usable)
    seconds = time.perf_counter() - began
    found = results(options, folder, encoder, [*texts, *map(str, options.images)], len(texts), scores, indices, seconds)
    print_tables(found)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.output, found)
    gallery = page(options.output.with_suffix(".html"), found, folder, dict(zip(options.images, pictures, strict=True)))
    print(f"Gallery: {gallery.resolve().as_uri()}", flush=True)
    return 0


def _queries(options: Search, card: IndexCard) -> tuple[tuple[str, ...], list[bytes]]:
    """The texts as a model is given them, and the bytes of the pictures."""
    asked = options.query
    if not asked and not options.images:
        known = known_data_set(card["data"])
        asked = known.example_queries if known else ()
        if not asked:
            raise ValueError('nothing to look for: give --query "some text", or --images some/picture.jpg.')
    try:
        pictures = [read_regular_file(path, kind="image", max_bytes=MAX_IMAGE_FILE_BYTES) for path in options.images]
        return tuple(map(clean_caption, asked)), pictures
    except BadExample as error:
        raise ValueError(f"a query cannot be used: {error}") from None


def _encoder_of(folder: IndexFolder, options: Search, open_encoder: Callable[[str], Any]) -> Any:
    """The model that made the index; any other is refused, because its vectors mean something else."""
    name = options.model or folder.card["model"]
    try:
        encoder = open_encoder(name)
        if options.decode != "exact":
            encoder = encoder.decoding(options.decode)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}\nIf the model has moved, say where it is: --model.") from None
    made_by = folder.card["model_fingerprint"]
    if encoder.fingerprint() != made_by and options.decode == "exact" and _made_fast(encoder, made_by):
        return encoder
    if encoder.fingerprint() != made_by:
        raise IndexFolderError(
            f"{options.index} holds embeddings by another model than {name} is now (it was made by "
            f"{folder.card['model']}). Give that one by --model, or embed anew: python -m recipes.embed --model {name} "
            "--index another/folder."
        )
    return encoder


def _made_fast(encoder: Any, fingerprint: str) -> bool:
    """Whether an index is by the same model, with pictures decoded fast."""
    try:
        return encoder.decoding("fast").fingerprint() == fingerprint
    except ImportError:
        return False


def _implementation(options: Search, folder: IndexFolder) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    if options.implementation == "exact":
        return nearest
    if options.implementation == "faiss":
        return nearest_by_faiss
    kept = folder.path / f"{options.among}.hnsw" if folder.card["finished"] else None
    return partial(nearest_by_hnsw, kept=kept)


if __name__ == "__main__":
    sys.exit(main())
