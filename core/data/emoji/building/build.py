"""The build of the embedded data from published packages.

    pip install resvg_py==0.5.0
    python -m diptych.core.data.emoji.building.build --cache CACHE

npm fetches 58 MB into CACHE once; the rest takes about five minutes on one core. Pillow 13.0.0, resvg_py 0.5.0 and
sentencepiece 0.2.3 give the bytes in the repository; the same versions give the same bytes again.

A concept is held out when the sha1 of its hexcode is divisible by ten (`concepts.split_of`); the tokenizer sees the
names and keywords of the other concepts only.
"""

import argparse
import io
import json
import lzma
import time
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path, PurePosixPath

from diptych.core.data.emoji.building import packages
from diptych.core.data.emoji.building.annotations import read_concepts
from diptych.core.data.emoji.building.drawing import draw_bitmap, draw_svg, icon_svg, reduce_to_webp
from diptych.core.data.emoji.building.licenses import licenses_text
from diptych.core.data.emoji.building.matching import (
    match_by_code_points,
    match_by_name,
    match_regions,
    name_index,
    region_of,
    slug,
    without_selectors,
)
from diptych.core.data.emoji.building.renamed import RENAMED
from diptych.core.data.emoji.concepts import CONCEPTS_PATH, DESIGNERS, FOLDER, LICENSES_PATH, TOKENIZER_PATH, Concept

VOCABULARY = 8000
MATCHED_BY_CODE_POINTS = ("noto", "twemoji", "fluent", "fluent_flat", "fluent_hc")
FLAGS_ONLY = {"circle_flags": "", "flag_icons": "-4x3", "flagpack": ""}


def read_icons(designer: str, cache: Path) -> dict:
    """An Iconify set with its table of code points, {"icons", "aliases", "chars", "width", "height"}."""
    tarball = packages.fetch(packages.ICONIFY[designer], cache)
    icons = packages.read_json(tarball, "icons.json")
    # Fluent's Color drawings have the names of the Flat ones, whose package has the table of code points.
    charted = "fluent_flat" if designer == "fluent" else designer
    chars = packages.read_json(packages.fetch(packages.ICONIFY[charted], cache), "chars.json")
    return {"width": 16, "height": 16, "aliases": {}} | icons | {"chars": chars}


def match(designer: str, icons: Mapping, concepts: list[Concept], index: Mapping[str, str]) -> dict[str, str]:
    """hexcode -> name of this designer's drawing."""
    names, renamed = [*icons["icons"], *icons["aliases"]], RENAMED.get(designer, {})
    hexcodes = [concept.hexcode for concept in concepts]
    if designer in FLAGS_ONLY:
        names = [name for name in names if name not in renamed]
        by_name = {index[slug(english)]: name for name, english in renamed.items() if english}
        return match_regions(names, hexcodes, FLAGS_ONLY[designer]) | by_name
    if designer in MATCHED_BY_CODE_POINTS:
        return match_by_code_points(icons["chars"], names, hexcodes)
    return match_by_name(icons, index, renamed)


def draw_fluent_3d(cache: Path, concepts: list[Concept]) -> dict[str, bytes]:
    """hexcode -> WebP; flags of regions are not Microsoft's drawings and stay out."""
    wanted = {concept.hexcode for concept in concepts if region_of(concept.hexcode) is None}
    members = packages.read_members(packages.fetch(packages.FLUENT_3D, cache), ".webp")
    by_hexcode = {without_selectors(PurePosixPath(path).stem): data for path, data in sorted(members.items())}
    return {hexcode: reduce_to_webp(draw_bitmap(by_hexcode[hexcode])) for hexcode in sorted(wanted & by_hexcode.keys())}


def zip_bytes(pictures: Mapping[str, bytes]) -> bytes:
    """A ZIP of `<hexcode>.webp`, stored, sorted and without dates, so that the same pictures give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for hexcode in sorted(pictures):
            member = zipfile.ZipInfo(f"{hexcode}.webp", (1980, 1, 1, 0, 0, 0))
            member.create_system, member.external_attr = 3, 0o644 << 16
            archive.writestr(member, pictures[hexcode])
    return buffer.getvalue()


def concepts_bytes(concepts: Iterable[Concept]) -> bytes:
    """One JSON object a line, xz-compressed."""
    lines = (json.dumps(asdict(concept), ensure_ascii=False, separators=(",", ":")) + "\n" for concept in concepts)
    return lzma.compress("".join(lines).encode(), preset=9 | lzma.PRESET_EXTREME)


def tokenizer_text(concepts: Iterable[Concept]) -> list[str]:
    """What the tokenizer is trained on: every name and keyword of the `train` concepts in lower case, once a
    concept.
    """
    training = [concept for concept in concepts if concept.split == "train"]
    names = [name for concept in training for name in concept.names.values()]
    words = [word for concept in training for words in concept.keywords.values() for word in words]
    return [text.lower() for text in names + words]


def tokenizer_bytes(
    sentences: Iterable[str],
    vocabulary: int = VOCABULARY,
    *,
    normalization: str = "nmt_nfkc_cf",
    character_coverage: float = 0.9995,
    symbols: Iterable[str] = (),
) -> bytes:
    """A SentencePiece unigram model: case folded, byte fallback, pad 0, eos 1, unknown 2, as SigLIP 2's pad and eos.

    `symbols` are tokens of their own wherever they stand. The rules of `normalization` are 240 kB of the file;
    "identity" has none.
    """
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        model_type="unigram",
        vocab_size=vocabulary,
        normalization_rule_name=normalization,
        byte_fallback=True,
        character_coverage=character_coverage,
        user_defined_symbols=list(symbols),
        shuffle_input_sentence=False,
        num_threads=1,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return model.getvalue()


def main() -> None:
    """Fetches, matches, draws and writes everything beside this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder for the fetched packages")
    parser.add_argument(
        "--output", type=Path, default=FOLDER, help="folder to write into; the package's own by default"
    )
    parser.add_argument("--only", nargs="+", choices=[*DESIGNERS, "text"], default=[*DESIGNERS, "text"])
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    concepts = read_concepts(arguments.cache)
    print(f"{len(concepts)} concepts, {sum(len(concept.names) for concept in concepts)} names", flush=True)

    def write(name: str, data: bytes, started: float) -> None:
        (arguments.output / name).write_bytes(data)
        print(f"{name:20} {len(data):9,} bytes {time.monotonic() - started:6.1f} s", flush=True)

    named = [
        read_icons(designer, arguments.cache) for designer in ("noto", "twemoji", "fluent_flat", "noto_v1", "emojione")
    ]
    index = name_index(concepts, named)
    for designer in arguments.only:
        started = time.monotonic()
        if designer == "text":
            write(CONCEPTS_PATH.name, concepts_bytes(concepts), started)
            write(TOKENIZER_PATH.name, tokenizer_bytes(tokenizer_text(concepts)), started)
            write(LICENSES_PATH.name, licenses_text(arguments.cache).encode(), started)
            continue
        if designer == "fluent_3d":
            pictures = draw_fluent_3d(arguments.cache, concepts)
        else:
            icons = read_icons(designer, arguments.cache)
            drawings = match(designer, icons, concepts, index)
            pictures = {hexcode: reduce_to_webp(draw_svg(icon_svg(icons, name))) for hexcode, name in drawings.items()}
        print(f"{designer}: {len(pictures)} drawings", flush=True)
        write(f"{designer}.zip", zip_bytes(pictures), started)


if __name__ == "__main__":
    main()
