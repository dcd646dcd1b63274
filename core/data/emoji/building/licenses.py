"""LICENSES.md: whose work the embedded data is, on what terms it is passed on, and what was changed."""

from pathlib import Path

from diptych.core.data.emoji.building.packages import ARTWORK, CLDR, CLDR_DERIVED, EMOJIBASE, fetch, read_members
from diptych.core.data.emoji.concepts import DESIGNERS, HELD_OUT_DESIGNER, LANGUAGES

HOMES = {
    "MIT": "full text below",
    "Apache-2.0": "full text in the LICENSE file of diptych; also https://www.apache.org/licenses/LICENSE-2.0",
    "CC-BY-4.0": "https://creativecommons.org/licenses/by/4.0/legalcode",
    "Unicode-3.0": "full text below",
}


def licenses_text(cache: Path) -> str:
    """The document, with the licence texts that ask to be passed on copied from the fetched packages."""
    mit = _member(EMOJIBASE, "LICENSE", cache)
    permission = mit[mit.index("Permission is hereby granted") :].strip()
    unicode_license = _member(CLDR, "LICENSE", cache).strip()
    return "\n".join(
        [
            "# Licences of the embedded data",
            "",
            "diptych's code is under Apache-2.0. The files in this folder are derived from the works below and stay "
            "under",
            "those works' licences. diptych is not affiliated with or endorsed by any of their authors.",
            "",
            "## Drawings",
            "",
            "| file | drawings | licence | copyright | project | package |",
            "|---|---|---|---|---|---|",
            *(_row(designer) for designer in DESIGNERS),
            "",
            "Changed in all of them: drawings were chosen and renamed to the code points of the emoji they show, drawn "
            "or",
            "composed on a white background, reduced to 64 pixels on the longest side and stored as lossy WebP.",
            f"`{HELD_OUT_DESIGNER}.zip` is kept for evaluation.",
            "",
            *(f"- `{designer}.zip`: {ARTWORK[designer].remark}" for designer in DESIGNERS if ARTWORK[designer].remark),
            "",
            "## Names and keywords",
            "",
            "| file | from | licence | copyright |",
            "|---|---|---|---|",
            f"| concepts.jsonl.xz | Unicode CLDR, names and keywords in {len(LANGUAGES)} languages ({CLDR}, "
            f"{CLDR_DERIVED}; https://cldr.unicode.org) | Unicode-3.0 | Copyright © 2004-2026 Unicode, Inc. |",
            f"| concepts.jsonl.xz | groups, subgroups, versions and order ({EMOJIBASE}; https://emojibase.dev) | MIT | "
            "Copyright (c) 2017-2019 Miles Johnson |",
            "| tokenizer.model | SentencePiece model trained on names and keywords of Unicode CLDR | Unicode-3.0 | "
            "Copyright © 2004-2026 Unicode, Inc. |",
            "",
            "Changed: selected, joined by emoji, deduplicated.",
            "",
            "## Left out",
            "",
            "OpenMoji and EmojiOne 1 are under CC-BY-SA-4.0: pictures derived from them would have to be shared alike, "
            "which",
            "would bind whoever passes diptych on. The emoji of Apple, Samsung, Facebook, JoyPixels and other vendors "
            "are",
            "proprietary.",
            "",
            "## Licences",
            "",
            *(f"- {name}: {home}" for name, home in HOMES.items()),
            "",
            "### MIT",
            "",
            "For each work marked MIT, with its copyright line from the tables above:",
            "",
            permission,
            "",
            "### Unicode-3.0",
            "",
            unicode_license,
            "",
        ]
    )


def _row(designer: str) -> str:
    work = ARTWORK[designer]
    return f"| {designer}.zip | {work.title} | {work.license} | {work.copyright} | {work.home} | {work.package} (npm) |"


def _member(package: str, name: str, cache: Path) -> str:
    return read_members(fetch(package, cache), f"/{name}")[name].decode()
