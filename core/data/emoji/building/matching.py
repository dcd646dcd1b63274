"""Matching of drawings and concepts: by code points where a package tells them, by name elsewhere."""

import unicodedata
from collections.abc import Iterable, Mapping

from diptych.core.data.emoji.concepts import Concept


def slug(name: str) -> str:
    """The name's letters and digits in lower case, accents dropped: "flag: Côte d’Ivoire" -> "flagcotedivoire".

    "#" and "*" are spelled out, for all that tells "keycap: #" from "keycap: *".
    """
    plain = unicodedata.normalize("NFKD", name.casefold().replace("#", "pound").replace("*", "asterisk"))
    return "".join(character for character in plain if character.isalnum() and not unicodedata.combining(character))


def without_selectors(code_points: str) -> str:
    """Lower-case code points without variation selectors: "2764-FE0F" -> "2764"; keycaps lose leading zeros."""
    parts = (part.lstrip("0") for part in code_points.lower().split("-"))
    return "-".join(part for part in parts if part != "fe0f")


def name_index(concepts: Iterable[Concept], iconify_sets: Iterable[Mapping]) -> dict[str, str]:
    """slug of a name -> hexcode, from CLDR's English names, then those of the packages, their aliases, then Unicode's.

    An earlier source wins. `iconify_sets` are dicts with "chars" (code points -> name), "icons" and "aliases".
    """
    concepts = list(concepts)
    known = {concept.hexcode for concept in concepts}
    index = {slug(concept.names["en"]): concept.hexcode for concept in concepts if "en" in concept.names}
    sets = list(iconify_sets)
    for icons in sets:
        for code_points, name in icons["chars"].items():
            if without_selectors(code_points) in known:
                index.setdefault(slug(name), without_selectors(code_points))
    for icons in sets:
        for alias, target in icons["aliases"].items():
            _link(index, slug(alias), slug(target["parent"]))
    for concept in concepts:
        if "-" not in concept.hexcode:
            index.setdefault(slug(unicodedata.name(chr(int(concept.hexcode, 16)), "")), concept.hexcode)
    index.pop("", None)
    return index


def _link(index: dict[str, str], first: str, second: str) -> None:
    """Two names of one drawing: the one that is known explains the other."""
    for known, unknown in ((first, second), (second, first)):
        if known in index:
            index.setdefault(unknown, index[known])


def match_by_code_points(chars: Mapping[str, str], names: Iterable[str], hexcodes: Iterable[str]) -> dict[str, str]:
    """hexcode -> name of the drawing, by the package's own table of code points."""
    available, known = set(names), set(hexcodes)
    pairs = ((without_selectors(code_points), name) for code_points, name in chars.items())
    return {hexcode: name for hexcode, name in pairs if hexcode in known and name in available}


def match_by_name(icons: Mapping, index: Mapping[str, str], renamed: Mapping[str, str | None]) -> dict[str, str]:
    """hexcode -> name of the drawing, by what `renamed` says, or else by its own name.

    Aliases count only for drawings that are not matched by their own name: where "cricket" is an old alias of
    "cricket-game", the insect must not get the bat.
    """
    matched: dict[str, str] = {}
    aliases = {alias: target["parent"] for alias, target in icons["aliases"].items()}
    for name in [*renamed, *icons["icons"], *aliases]:
        if aliases.get(name) in matched.values():
            continue
        key = slug(renamed.get(name, name.replace("flag-for-", "flag-")) or "")
        if key in index:
            matched.setdefault(index[key], name)
    return matched


def region_of(hexcode: str) -> str | None:
    """The region a flag stands for, as "de" or "gb-sct"; None for anything else."""
    points = [int(part, 16) for part in hexcode.split("-")]
    if len(points) == 2 and all(0x1F1E6 <= point <= 0x1F1FF for point in points):
        return "".join(chr(point - 0x1F1E6 + ord("a")) for point in points)
    if len(points) > 3 and points[0] == 0x1F3F4 and points[-1] == 0xE007F:
        letters = "".join(chr(point - 0xE0000) for point in points[1:-1])
        return f"{letters[:2]}-{letters[2:]}"
    return None


def match_regions(names: Iterable[str], hexcodes: Iterable[str], suffix: str = "") -> dict[str, str]:
    """hexcode -> name of the drawing, for packages that name flags by region code ("de", "gb-sct", "de-4x3")."""
    available = set(names)
    regions = {hexcode: region_of(hexcode) for hexcode in hexcodes}
    return {hexcode: region + suffix for hexcode, region in regions.items() if region and region + suffix in available}
