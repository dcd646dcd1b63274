"""Names, keywords, groups and subgroups of the concepts, from Unicode CLDR and emojibase."""

import json
from pathlib import Path

from diptych.core.data.emoji.building.packages import CLDR, CLDR_DERIVED, EMOJIBASE, fetch, read_json, read_members
from diptych.core.data.emoji.concepts import GROUPS, LANGUAGES, Concept, split_of

VARIATION_SELECTOR = "\ufe0f"
INHERITED = "↑↑↑"  # CLDR's mark for "as in the parent language"


def hexcode_of(emoji: str) -> str:
    """Code points joined by "-", variation selectors dropped, because projects disagree on where they belong."""
    return "-".join(f"{ord(character):x}" for character in emoji if character != VARIATION_SELECTOR)


def read_concepts(cache: Path) -> list[Concept]:
    """Every emoji of the standard but skin tones, hair components and regional letters, in the standard's order."""
    emojibase = fetch(EMOJIBASE, cache)
    titles = read_json(emojibase, "meta/groups.json")
    entries = [entry for entry in read_json(emojibase, "en/data.json") if "group" in entry]
    entries = [entry for entry in entries if titles["groups"][str(entry["group"])] in GROUPS]
    annotations = _read_annotations(cache)
    concepts = []
    for entry in sorted(entries, key=lambda entry: entry["order"]):
        hexcode = hexcode_of(entry["emoji"])
        names, keywords = _name(entry["emoji"], annotations)
        concepts.append(
            Concept(
                hexcode=hexcode,
                emoji=entry["emoji"],
                group=titles["groups"][str(entry["group"])],
                subgroup=titles["subgroups"][str(entry["subgroup"])],
                version=entry["version"],
                split=split_of(hexcode),
                names=names,
                keywords=keywords,
            )
        )
    return concepts


def _read_annotations(cache: Path) -> dict[str, dict]:
    """language -> emoji without variation selectors -> {"tts": [name], "default": keywords}."""
    annotations: dict[str, dict] = {language: {} for language in LANGUAGES}
    for package, folder in ((CLDR_DERIVED, "annotationsDerived"), (CLDR, "annotations")):
        for path, data in read_members(fetch(package, cache), "/annotations.json").items():
            language = path.split("/")[-2]
            if language in annotations:
                annotations[language] |= json.loads(data)[folder]["annotations"]
    return annotations


def _name(emoji: str, annotations: dict[str, dict]) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    names, keywords = {}, {}
    for language in LANGUAGES:
        entry = annotations[language].get(emoji.replace(VARIATION_SELECTOR, ""), {})
        name = entry.get("tts", [""])[0].strip()
        if not name or name == INHERITED:
            continue
        names[language] = name
        words = dict.fromkeys(word.strip() for word in entry.get("default", ()))
        keywords[language] = tuple(word for word in words if word not in ("", INHERITED, name))
    return names, keywords
