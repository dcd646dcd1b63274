"""A fault that can be made in the code, and the test that is to find it."""

import ast
from dataclasses import dataclass
from pathlib import Path

from tests.tree import ROOT


@dataclass(frozen=True)
class Mutant:
    """A fault, and the test that finds it.

    Attributes:
        name: words joined by hyphens.
        file: the file that is changed, from the root.
        old, new: what stands in it exactly once, and what takes its place.
        test: a node id of pytest, which fails with the fault and passes without it.
        backend: what Keras runs on meanwhile.
    """

    name: str
    file: str
    old: str
    new: str
    test: str
    backend: str = "torch"

    def wrong(self, root: Path = ROOT) -> list[str]:
        """What keeps this entry from being tried, each as a sentence."""
        if not (root / self.file).is_file():
            return [f"there is no file {self.file}"]
        text = (root / self.file).read_text(encoding="utf-8")
        count = text.count(self.old)
        if count != 1 or self.old == self.new:
            return [f"{self.file} holds the old text {count} times" if count != 1 else "old and new text are the same"]
        found = []
        try:
            compile(text.replace(self.old, self.new), self.file, "exec")
        except SyntaxError as error:
            found.append(f"{self.file} would be no Python: {error}")
        path, _, function = self.test.partition("::")
        if not (root / path).is_file() or function not in functions_of((root / path).read_text(encoding="utf-8")):
            found.append(f"there is no test {self.test}")
        return found


def functions_of(source: str) -> set[str]:
    """The functions of a module and its classes, as pytest writes them: `test_this`, `TestThese::test_that`."""
    body = ast.parse(source).body
    classes = [node for node in body if isinstance(node, ast.ClassDef)]
    within = {
        f"{node.name}::{part.name}" for node in classes for part in node.body if isinstance(part, ast.FunctionDef)
    }
    return {node.name for node in body if isinstance(node, ast.FunctionDef)} | within
