"""Sources of the embedded data: published npm packages, by name and version."""

import json
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Artwork:
    """One designer's emoji: where they come from and on what terms."""

    package: str
    title: str
    license: str  # SPDX identifier
    copyright: str
    home: str
    remark: str = ""


ICONIFY = {
    "noto": "@iconify-json/noto@1.2.9",
    "noto_v1": "@iconify-json/noto-v1@1.2.5",
    "twemoji": "@iconify-json/twemoji@1.2.5",
    "fluent": "@iconify-json/fluent-emoji@1.2.7",
    "fluent_flat": "@iconify-json/fluent-emoji-flat@1.2.6",
    "fluent_hc": "@iconify-json/fluent-emoji-high-contrast@1.2.6",
    "fxemoji": "@iconify-json/fxemoji@1.2.2",
    "emojione": "@iconify-json/emojione@1.2.3",
    "circle_flags": "@iconify-json/circle-flags@1.2.11",
    "flag_icons": "@iconify-json/flag@1.2.12",
    "flagpack": "@iconify-json/flagpack@1.2.8",
}
FLUENT_3D = "@lobehub/fluent-emoji-3d@1.1.0"
CLDR = "cldr-annotations-full@48.2.0"
CLDR_DERIVED = "cldr-annotations-derived-full@48.2.0"
EMOJIBASE = "emojibase-data@17.0.0"

_MICROSOFT = {
    "license": "MIT",
    "copyright": "Copyright (c) Microsoft Corporation",
    "home": "https://github.com/microsoft/fluentui-emoji",
}
_GOOGLE = {
    "license": "Apache-2.0",
    "copyright": "Copyright Google LLC",
    "home": "https://github.com/googlefonts/noto-emoji",
}

ARTWORK = {
    "noto": Artwork(ICONIFY["noto"], "Noto Emoji", **_GOOGLE),
    "noto_v1": Artwork(ICONIFY["noto_v1"], "Noto Emoji, first version", **_GOOGLE),
    "twemoji": Artwork(
        ICONIFY["twemoji"],
        "Twemoji",
        "CC-BY-4.0",
        "Copyright Twitter, Inc and other contributors",
        "https://github.com/jdecked/twemoji",
    ),
    "fluent": Artwork(ICONIFY["fluent"], "Fluent Emoji, Color", **_MICROSOFT),
    "fluent_flat": Artwork(ICONIFY["fluent_flat"], "Fluent Emoji, Flat", **_MICROSOFT),
    "fluent_hc": Artwork(ICONIFY["fluent_hc"], "Fluent Emoji, High Contrast", **_MICROSOFT),
    "fluent_3d": Artwork(
        FLUENT_3D,
        "Fluent Emoji, 3D",
        **_MICROSOFT,
        remark="Packaged by LobeHub (https://github.com/lobehub/fluent-emoji, MIT). The country flags in that package "
        "are not Microsoft's drawings and are left out.",
    ),
    "fxemoji": Artwork(
        ICONIFY["fxemoji"],
        "FxEmojis (Firefox OS)",
        "CC-BY-4.0",
        "Copyright 2015, Mozilla Foundation",
        "https://github.com/mozilla/fxemoji",
        remark="The project licenses its code under Apache-2.0 and its visual design under CC-BY-4.0; the package "
        "names Apache-2.0 for both. The attribution here satisfies either.",
    ),
    "emojione": Artwork(
        ICONIFY["emojione"],
        "EmojiTwo (EmojiOne 2)",
        "CC-BY-4.0",
        "Copyright Ranks.com Inc. (EmojiOne) and the EmojiTwo contributors",
        "https://github.com/EmojiTwo/emojitwo",
    ),
    "circle_flags": Artwork(
        ICONIFY["circle_flags"],
        "Circle Flags",
        "MIT",
        "Copyright (c) 2021 HatScripts",
        "https://github.com/HatScripts/circle-flags",
    ),
    "flag_icons": Artwork(
        ICONIFY["flag_icons"],
        "Flag Icons, 4:3",
        "MIT",
        "Copyright (c) 2025 Panayiotis Lipiridis",
        "https://github.com/lipis/flag-icons",
    ),
    "flagpack": Artwork(
        ICONIFY["flagpack"],
        "Flagpack, 4:3",
        "MIT",
        "Copyright (c) 2021 Yummygum",
        "https://github.com/Yummygum/flagpack-core",
    ),
}


def fetch(package: str, cache: Path) -> Path:
    """Path of the package's tarball in `cache`, asked for by `npm pack` unless it is there already."""
    name, version = package.rsplit("@", 1)
    tarball = cache / f"{name.removeprefix('@').replace('/', '-')}-{version}.tgz"
    if not tarball.exists():
        cache.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "pack", "--silent", package], cwd=cache, check=True, stdout=subprocess.DEVNULL)
    if not tarball.exists():
        raise FileNotFoundError(
            f"`npm pack {package}` ran but {tarball} is not there; look at what it wrote in {cache}."
        )
    return tarball


def read_members(tarball: Path, suffix: str) -> dict[str, bytes]:
    """Contents of the tarball's files whose name ends so, by path inside the package."""
    with tarfile.open(tarball) as archive:
        wanted = [member for member in archive if member.isfile() and member.name.endswith(suffix)]
        opened = ((member.name.split("/", 1)[1], archive.extractfile(member)) for member in wanted)
        return {path: file.read() for path, file in opened if file}


def read_json(tarball: Path, path: str) -> dict:
    """One JSON file of the package; raises KeyError when it is not there."""
    return json.loads(read_members(tarball, f"/{path}")[path])
