"""The commands as people type them, with the model that diptych ships, from no flag at all to what is found."""

import json

import numpy as np
import pytest

from diptych.core.data.emoji import evaluation_set
from diptych.engine.embedding.index_folder import IndexFolder
from diptych.recipes import embed, search, zero_shot

DRAWINGS = 60


@pytest.fixture(scope="module")
def drawings(tmp_path_factory):
    """Drawings by the held-out designer with their English names, every thirtieth, as a person's folder."""
    folder = tmp_path_factory.mktemp("drawings")
    source = evaluation_set(languages=("en",))
    places = np.linspace(0, len(source) - 1, DRAWINGS).astype(int)
    lines = []
    for record in (source.record(int(place)) for place in places):
        (folder / f"{record.key}.webp").write_bytes(source.read(record.images[0]))
        lines.append(json.dumps({"file_name": f"{record.key}.webp", "caption": record.captions[0].text}))
    (folder / "captions.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def index(drawings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("indices") / "index"
    assert embed.main(["--data", str(drawings), "--index", str(folder), "--texts"]) == 0
    return folder


def test_embeddings_do_not_depend_on_the_other_images_of_a_batch(drawings, index, tmp_path):
    other = tmp_path / "index"
    assert embed.main(["--data", str(drawings), "--index", str(other), "--batch-size", "7", "--dtype", "float32"]) == 0
    first, second = IndexFolder(index).vectors().astype(np.float32), IndexFolder(other).vectors()
    assert np.linalg.norm(second, axis=1) == pytest.approx(1, abs=1e-5)
    assert np.abs(first - second).max() < 2.0**-11  # of float16, for values below 1
    assert np.abs(first - np.roll(second, 1, axis=0)).max() > 0.1


def test_a_picture_finds_itself_and_a_name_its_picture(drawings, index, tmp_path):
    output = tmp_path / "results.json"
    pictures = sorted(drawings.glob("*.webp"))[:8]
    names = {item.key: item.caption for item in IndexFolder(index).rows(range(DRAWINGS))}
    arguments = ["--index", str(index), "--output", str(output), "--top-k", "5"]
    queries = ["--query", *names.values(), "--images", *map(str, pictures)]
    assert search.main([*arguments, *queries]) == 0
    answers = json.loads(output.read_text())["queries"]
    for picture, answer in zip(pictures, answers[DRAWINGS:], strict=True):
        assert answer["results"][0]["key"] == picture.stem
        assert answer["results"][0]["cosine"] == pytest.approx(1, abs=2e-3)
    hits = [
        key in [hit["key"] for hit in answer["results"]] for key, answer in zip(names, answers[:DRAWINGS], strict=True)
    ]
    assert np.mean(hits) > 4 * 5 / DRAWINGS  # chance is 5 of 60


def test_zero_shot_without_flags_is_mostly_right(tmp_path):
    output = tmp_path / "results.json"
    assert zero_shot.main(["--output", str(output)]) == 0
    images = json.loads(output.read_text())["images"]
    assert sum(image["best"][0]["label"] == image["truth"] for image in images) >= 8
