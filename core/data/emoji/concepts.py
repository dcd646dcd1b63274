"""The concepts of the embedded data: one emoji each, with its names and keywords in 36 languages."""

import functools
import hashlib
import json
import lzma
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
CONCEPTS_PATH = FOLDER / "concepts.jsonl.xz"
TOKENIZER_PATH = FOLDER / "tokenizer.model"
SCENE_TOKENIZER_PATH = FOLDER / "scene_tokenizer.model"
"""A small vocabulary for scenes (`building.scene_tokenizer`)."""
QUESTION_TOKENIZER_PATH = FOLDER / "question_tokenizer.model"
"""A small vocabulary of Gemma's kind, for questions about scenes (`building.question_tokenizer`)."""
LICENSES_PATH = FOLDER / "LICENSES.md"
LICENCE = (
    "The drawings and names it was trained on keep their authors' licences: core/data/emoji/LICENSES.md of diptych."
)
"""A sentence for whoever passes on a model that was trained on the embedded data."""

# The 36 languages of Crossmodal-3600 (Thapliyal et al. 2022), with CLDR's codes.
LANGUAGES = (
    "ar", "bn", "cs", "da", "de", "el", "en", "es", "fa", "fi", "fil", "fr", "he", "hi", "hr", "hu", "id", "it", "ja",
    "ko",
    "mi", "nl", "no", "pl", "pt", "qu", "ro", "ru", "sv", "sw", "te", "th", "tr", "uk", "vi", "zh",
)  # fmt: skip
DESIGNERS = (
    "noto",
    "noto_v1",
    "twemoji",
    "fluent",
    "fluent_flat",
    "fluent_hc",
    "fluent_3d",
    "fxemoji",
    "emojione",
    "circle_flags",
    "flag_icons",
    "flagpack",
)
HELD_OUT_DESIGNER = "twemoji"
GROUPS = (
    "smileys-emotion",
    "people-body",
    "animals-nature",
    "food-drink",
    "travel-places",
    "activities",
    "objects",
    "symbols",
    "flags",
)


@dataclass(frozen=True)
class Concept:
    """One emoji: `hexcode` is its code points in lower-case hexadecimal joined by "-", without variation selectors."""

    hexcode: str
    emoji: str
    group: str
    subgroup: str
    version: float  # of the Emoji standard that introduced it
    split: str  # "train" or "held_out"
    names: dict[str, str]  # language -> short name
    keywords: dict[str, tuple[str, ...]]  # language -> keywords, in CLDR's order


def designer_path(designer: str) -> Path:
    """The ZIP of one designer's drawings; its members are `<hexcode>.webp`."""
    return FOLDER / f"{designer}.zip"


def split_of(hexcode: str) -> str:
    """A tenth of the concepts is held out, chosen by hash, so that a new emoji never moves an old one."""
    return "held_out" if int(hashlib.sha1(hexcode.encode()).hexdigest(), 16) % 10 == 0 else "train"


@functools.cache
def concepts() -> tuple[Concept, ...]:
    """All concepts, in the order of the emoji standard."""
    lines = lzma.decompress(CONCEPTS_PATH.read_bytes()).splitlines()
    # As one array: three times faster than line by line.
    return tuple(_concept(fields) for fields in json.loads(b"[" + b",".join(lines) + b"]"))


def group_prompts(language: str = "en") -> dict[str, list[str]]:
    """For each group the names of its concepts in the training split, which are different things of its kind."""
    names: dict[str, list[str]] = {group: [] for group in GROUPS}
    for concept in concepts():
        if concept.split == "train" and language in concept.names:
            names[concept.group].append(concept.names[language])
    return names


def _concept(fields: dict) -> Concept:
    keywords = {language: tuple(words) for language, words in fields.pop("keywords").items()}
    return Concept(**fields, keywords=keywords)
