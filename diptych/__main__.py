"""The command `diptych`: what can be run, and running it. `diptych siglip ...` is `python -m recipes.siglip ...`."""

import ast
import sys
from importlib import import_module
from pathlib import Path

from diptych import __version__
from diptych.core.spelling import did_you_mean

RECIPES = Path(__file__).parent / "recipes"


def recipes() -> dict[str, str]:
    """What can be run, by name, each with the first paragraph about it as one line."""
    found = {}
    for path in sorted(RECIPES.glob("[!_]*.py")):
        about = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        found[path.stem] = " ".join(about.partition("\n\n")[0].split())
    return found


def usage() -> str:
    """How to ask, and for what."""
    known = recipes()
    width = max(map(len, known))
    listed = "\n".join(f"  {name:<{width}}  {about}" for name, about in known.items())
    how = "usage: diptych RECIPE [FLAGS]     (diptych RECIPE --help lists its flags)"
    return f"{how}\n\n{listed}\n\ndiptych {__version__}"


def main(arguments: list[str] | None = None) -> int:
    """Runs a recipe with the rest of the words, or says what there is; returns the exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    if not words or words[0] in ("-h", "--help", "--version"):
        print(usage())
        return 0
    name, *rest = words
    known = recipes()
    if name not in known:
        near = did_you_mean(name, known)
        print(f"diptych: there is no recipe {name!r}.{near} There are {', '.join(known)}.", file=sys.stderr)
        return 2
    return import_module(f"diptych.recipes.{name}").main(rest)


if __name__ == "__main__":
    sys.exit(main())
