"""Build of the manual: the pages of docs/, and pages generated from the code, as one static site.

Command:   python -m docs.manual.build --output runs/manual

`nox -s manual` runs it in an environment that has what it needs.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from docs.manual.reference import python_page, recipe_pages

HERE = Path(__file__).parent
DOCS = HERE.parent
OUTSIDE = re.compile(r"\[(?P<text>[^\]]*)\]\(\.\./[^)\s]*\)")
"""A link to a file of the repository that is no page."""
FOREIGN_WORKER, OWN_WORKER = "https://unpkg.com/iframe-worker/shim", "file_worker.js"
"""The script by which the theme searches in pages that are opened as files, and the one in its place."""


def pages() -> dict[str, str]:
    """The Markdown of each page by its place in the manual: those of docs/, and the reference."""
    written = {path.name: OUTSIDE.sub(r"\g<text>", path.read_text(encoding="utf-8")) for path in DOCS.glob("*.md")}
    return written | {"reference/python.md": python_page()} | recipe_pages()


def settings(names: list[str]) -> str:
    """mkdocs.yml with the recipes of the reference in its navigation."""
    recipes = sorted(name for name in names if name.startswith("reference/recipes/"))
    listed = "".join(f"          - {Path(name).stem}: {name}\n" for name in recipes)
    text = (HERE / "mkdocs.yml").read_text(encoding="utf-8").replace("../..", str(DOCS.parent))
    return text.replace("RECIPES\n", f"      - On the command line:\n{listed}")


def build(output: Path) -> None:
    """Writes the site; a link that leads nowhere, or a page that is not in the navigation, fails."""
    with tempfile.TemporaryDirectory(prefix="manual-") as temporary:
        folder = Path(temporary)
        found = pages()
        for name, text in found.items():
            page = folder / "pages" / name
            page.parent.mkdir(parents=True, exist_ok=True)
            page.write_text(text, encoding="utf-8")
        shutil.copytree(DOCS / "pictures", folder / "pages" / "pictures")
        for name in ("manual.css", OWN_WORKER):
            shutil.copy(HERE / name, folder / "pages")
        (folder / "mkdocs.yml").write_text(settings(list(found)), encoding="utf-8")
        command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(output.resolve())]
        subprocess.run([*command, "--config-file", str(folder / "mkdocs.yml")], check=True)
    for page in output.rglob("*.html"):
        place = "../" * (len(page.relative_to(output).parts) - 1) + OWN_WORKER
        text = page.read_text(encoding="utf-8")
        if FOREIGN_WORKER not in text:
            raise ValueError(f"{page} has no {FOREIGN_WORKER}: another theme needs another {OWN_WORKER}.")
        page.write_text(text.replace(FOREIGN_WORKER, place), encoding="utf-8")


def main() -> int:
    """Builds; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/manual"), help="folder of the site")
    output = parser.parse_args().output
    build(output)
    print(f"The manual: {(output / 'index.html').resolve().as_uri()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
