"""Imports one way, core <- backends, models <- engine <- recipes, without circles; a room for each framework."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

import pytest

from tests.tree import ROOMS, ROOT, files

FRAMEWORKS = {
    "jax": {"jax", "jaxlib", "flax", "optax", "orbax"},
    "torch": {"torch", "triton"},
    "tensorflow": {"tensorflow", "tensorflow_text", "tf_keras"},
}
FRAMEWORK_OF = {module: name for name, modules in FRAMEWORKS.items() for module in modules}
SHARED_BY_BACKENDS = ("plan", "shares", "untrained")
WITHOUT_KERAS = (
    *(f"core/{room}/" for room in ("data", "evaluation", "files", "report", "weights")),
    "diptych/",
    *(f"tests/core/{room}/" for room in ("data", "evaluation", "files", "report")),
    "tests/oracle/",
)
MAY_IMPORT = {
    "core": {"core"},
    "models": {"core", "models"},
    "engine": {"core", "models", "backends", "engine"},
    "recipes": set(ROOMS),
    "diptych": set(ROOMS),
}
INSIDE_CORE = ("files", "weights", "data", "losses", "training", "evaluation", "report")
"""Each of these imports itself and those before it."""


def imported_modules(source: str) -> list[tuple[int, str]]:
    """(line, dotted name) of everything imported, inside functions too; a relative import starts with a dot.

    `from a import b` yields both `a` and `a.b`: `b` may be a module. `import_module("a")` counts like `import a`.
    """
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            found += [(node.lineno, module)] + [(node.lineno, f"{module}.{alias.name}") for alias in node.names]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in {"import_module", "__import__"} and isinstance(node.args[0].value, str):
                found.append((node.lineno, node.args[0].value))
    return found


def offences(path: PurePosixPath, source: str) -> list[str]:
    """The imports of one file that the layering forbids, each as a sentence."""
    wrong = [(line, name, reason) for line, name in imported_modules(source) if (reason := _offence(path, name))]
    return sorted({f"{path}:{line} imports {name}: {reason}" for line, name, reason in wrong})


def _offence(path: PurePosixPath, name: str) -> str | None:
    room, native = path.parts[0], _framework_room(path)
    top, _, rest = name.partition(".")
    if name.startswith("."):
        return "relative imports hide the room; write diptych.<room>..."
    if top in ROOMS:
        return f"import it as diptych.{name}"
    if top in {"keras", *FRAMEWORK_OF} and str(path).startswith(WITHOUT_KERAS):
        return "this room is NumPy and the standard library"
    if room not in MAY_IMPORT and room != "backends":
        return None  # other tests, benchmarks and the noxfile may import everything
    if top in FRAMEWORK_OF and FRAMEWORK_OF[top] != native:
        return f"{FRAMEWORK_OF[top]} belongs below backends/{FRAMEWORK_OF[top]}/"
    target = rest.partition(".")[0]
    if top != "diptych" or target not in ROOMS:
        return None
    if room == "backends":
        if native is not None:
            own = (f"diptych.backends.{native}", *(f"diptych.backends.{name}" for name in SHARED_BY_BACKENDS))
            return None if name.startswith(own) else f"a framework's room imports nothing but {', '.join(own)}"
        allowed = target == "backends" or name == "diptych.core"
        allowed |= name.startswith(("diptych.core.losses", "diptych.core.placement"))
        return None if allowed else "backends may import core.losses, core.placement and its own rooms"
    if target not in MAY_IMPORT[room]:
        return f"{room} may import {sorted(MAY_IMPORT[room]) or 'no room'}"
    own, other = path.parts[1], rest.split(".")[1:2]
    if room == "core" and own in INSIDE_CORE and other and other[0] in INSIDE_CORE:
        before = INSIDE_CORE[: INSIDE_CORE.index(own) + 1]
        return None if other[0] in before else f"core/{own} may import {' and '.join(before)} of core"
    return None


def files_imported(sources: Mapping[PurePosixPath, str]) -> dict[PurePosixPath, set[PurePosixPath]]:
    """Each file, and which of the others it imports; imports inside functions count."""
    modules = {".".join(path.with_suffix("").parts).removesuffix(".__init__"): path for path in sources}
    found: dict[PurePosixPath, set[PurePosixPath]] = {}
    for path, source in sources.items():
        statements = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom)]
        found[path] = {modules[name] for node in statements for name in _imported(node, modules)} - {path}
    return found


def _imported(node: ast.Import | ast.ImportFrom, modules: Mapping[str, PurePosixPath]) -> Iterator[str]:
    """The modules of a statement: of `from a import b` it is `a.b`, or `a` where b is no module but a name in it."""
    for alias in node.names:
        names = [alias.name] if isinstance(node, ast.Import) else [f"{node.module}.{alias.name}", str(node.module)]
        known = [name.removeprefix("diptych.") for name in names]
        yield from [name for name in known if name in modules][:1]


def circle(imports: Mapping[PurePosixPath, set[PurePosixPath]]) -> list[PurePosixPath]:
    """Files each of which imports the next, and the last the first; empty where there are none."""
    done: set[PurePosixPath] = set()
    for start in imports:
        way: list[PurePosixPath] = []
        open_imports: list[Iterator[PurePosixPath]] = [iter([start])]
        while open_imports:
            following = next(open_imports[-1], None)
            if following is None:
                open_imports.pop()
                if way:
                    done.add(way.pop())
            elif following in way:
                return way[way.index(following) :]
            elif following not in done:
                way.append(following)
                open_imports.append(iter(sorted(imports[following])))
    return []


def _framework_room(path: PurePosixPath) -> str | None:
    """The framework whose room the file is in: torch for backends/torch/step.py, None elsewhere."""
    return path.parts[1] if path.parts[0] == "backends" and path.parts[1] in FRAMEWORKS else None


def test_every_import_points_the_right_way():
    wrong, read, imports = [], {}, 0
    for path in files(ROOT, ".py"):
        if path.parts[:2] == ("examples", "keras_app"):
            continue  # somebody else's app, whose `models` are its own
        source = (ROOT / path).read_text(encoding="utf-8")
        read[path.parts[0]] = read.get(path.parts[0], 0) + 1
        imports += len(imported_modules(source))
        wrong += offences(PurePosixPath(path.as_posix()), source)
    assert not wrong, "\n".join(wrong)
    assert all(read.get(room, 0) >= 1 for room in (*ROOMS, "diptych", "tests", "benchmarks")), read
    assert imports > sum(read.values()), f"{imports} imports in {read}: the parser sees too little"


def test_no_file_imports_itself_by_way_of_others():
    paths = [PurePosixPath(path.as_posix()) for path in files(ROOT, ".py") if path.parts[0] in ROOMS]
    imports = files_imported({path: (ROOT / path).read_text(encoding="utf-8") for path in paths})
    assert sum(map(len, imports.values())) > len(paths) > 200
    assert [str(path) for path in circle(imports)] == []


def test_a_circle_is_found_wherever_one_enters_it():
    one, two, three = (PurePosixPath(f"models/{name}.py") for name in ("one", "two", "three"))
    sources = {
        PurePosixPath("models/__init__.py"): "def f():\n    from diptych.models.one import One",
        one: "from diptych.models import two",
        two: "def g():\n    from diptych.models.three import Three",
        three: "import diptych.models.two",
    }
    assert circle(files_imported(sources)) == [two, three]
    sources[three] = "import json"
    assert circle(files_imported(sources)) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("core/data/batch.py", "import keras"),
        ("core/evaluation/retrieval.py", "def recall():\n    from keras import ops"),
        ("core/losses/contrastive.py", "import jax.numpy as jnp"),
        ("core/losses/contrastive.py", "from diptych.backends import sigmoid_loss"),
        ("core/training/learner.py", "from diptych import models"),
        ("core/training/learner.py", "import importlib\nimportlib.import_module('diptych.recipes.siglip')"),
        ("models/siglip/vit.py", "from diptych.backends.selection import select_backend"),
        ("models/siglip/vit.py", "from .layers import Mlp"),
        ("models/siglip/vit.py", "from models.parts.layers import Mlp"),
        ("models/siglip/vit.py", "import torch"),
        ("core/weights/hub.py", "from diptych.core.data import records"),
        ("core/training/learner.py", "from diptych.core.evaluation.retrieval import recall_at_k"),
        ("core/evaluation/retrieval.py", "from diptych.core.report.tables import text_table"),
        ("core/report/tables.py", "import keras"),
        ("engine/datasets/own.py", "from diptych.recipes import siglip"),
        ("engine/datasets/own.py", "import torch"),
        ("models/siglip/vit.py", "from diptych.engine.datasets.open import with_data"),
        ("recipes/siglip.py", "import tensorflow as tf"),
        ("recipes/siglip.py", "from . import evaluate"),
        ("backends/__init__.py", "import torch"),
        ("backends/__init__.py", "from diptych.core.training import learner"),
        ("backends/torch/ring.py", "import jax"),
        ("backends/torch/ring.py", "from diptych.core.losses import contrastive"),
        ("backends/torch/ring.py", "from diptych.backends.jax import ring"),
        ("backends/torch/ring.py", "from diptych.backends import loss"),
        ("diptych/__main__.py", "import keras"),
        ("tests/core/test_batch.py", "from ..tree import ROOT"),
        ("tests/core/data/test_batch.py", "import keras"),
        ("tests/oracle/towers.py", "import torch"),
        ("benchmarks/loader.py", "from core.data import loader"),
    ],
)
def test_a_wrong_import_is_refused(path, source):
    assert offences(PurePosixPath(path), source)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("core/training/learner.py", "import keras\nfrom diptych.core.data.batch import Batch"),
        ("models/siglip/vit.py", "from diptych.core.losses import contrastive"),
        (
            "backends/__init__.py",
            "def f():\n    from diptych.backends.jax import step\n    from diptych.core import losses",
        ),
        ("backends/torch/ring.py", "import triton\nimport numpy as np\nfrom diptych.backends.torch import tiles"),
        ("backends/torch/ring.py", "from diptych.backends.plan import block_size"),
        (
            "recipes/siglip.py",
            "from diptych.backends.selection import select_backend\nfrom diptych.models import SigLIP",
        ),
        ("core/training/run.py", "from diptych import __version__"),
        ("core/report/tables.py", "from diptych.core.evaluation.retrieval import recall_at_k"),
        ("engine/training/build.py", "from diptych import backends\nfrom diptych.models import SigLIP"),
        ("tests/backends/test_torch.py", "import torch\nfrom diptych.backends.torch import ring"),
    ],
)
def test_a_right_import_is_accepted(path, source):
    assert offences(PurePosixPath(path), source) == []
