"""The manual: what can be run on this project, and what it needs.

    nox -l                          the sessions, a line each
    nox                             what continuous integration runs: lint, wheel, docs, recipes, tests, agreement
    nox -s tests                    the tests on three backends, one after the other
    nox -s "tests(backend='jax')"   the tests on one
    nox -s tests -- -k schedules    what follows -- goes to pytest

Sessions that need Keras share one virtual environment with all three frameworks, `.nox/everything` (3 GB, a minute and a
half to install), made by the session of that name with the Python that runs nox. It is for CPUs: torch's CPU build, from
TORCH_INDEX_URL where the package index in use does not have it, and tensorflow-cpu. `gpu` alone installs builds for CUDA,
of jax and torch: tensorflow's needs another CUDA than theirs.
"""

import hashlib
import os
import platform
import shutil
import tempfile
from pathlib import Path

import nox
from nox.command import CommandFailed

nox.needs_version = ">=2025.10.14"
nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "wheel", "docs", "recipes", "tests", "agreement"]

ROOT = Path(__file__).parent
BACKENDS = ["jax", "torch", "tensorflow"]
LINTERS = ["ruff==0.17.6", "mypy==2.4.1", "numpy"]

TORCH = "2.13.0"
TORCH_INDEX_URL = os.environ.get("TORCH_INDEX_URL", "https://download.pytorch.org/whl/cpu")
TENSORFLOW = "tensorflow-cpu" if platform.system() == "Linux" and platform.machine() == "x86_64" else "tensorflow"
CUDA = {"jax": "jax[cuda13]", "torch": "torch"}

# How each recipe is run at its tiny size, in this order, and what it must leave in a folder that all of one backend share.
RUN = ("card.json", "metrics.jsonl", "results.json", "report.html", "model/config.json", "model/model.safetensors")
SHORT = ("--examples", "2048", "--warmup-examples", "256", "--evaluate-every", "1024")
STAGES = ("captioning", "self_distillation", "trunk", "patch6_54", "trunk_curated", "naflex")
TINY = {
    "siglip2": (
        ("--run-dir", "{folder}/siglip2", "--examples", "1280", "--batch-size", "32", "--warmup-examples", "128"),
        ("siglip2/results.json", *(f"siglip2/{stage}/model/model.safetensors" for stage in STAGES)),
    ),
    "caption": (
        ("--model", "{folder}/siglip2/trunk/model", "--output", "{folder}/caption/results.json"),
        ("caption/results.json", "caption/results.html"),
    ),
    "label": (
        ("--scenes", "40", "--output", "{folder}/label/regions.jsonl"),
        ("label/regions.jsonl", "label/regions.html"),
    ),
    "dense": (
        ("--model", "{folder}/siglip2/trunk/model", "--output", "{folder}/dense/results.json"),
        ("dense/results.json", "dense/results.html"),
    ),
    "siglip": (("--run-dir", "{folder}/siglip", *SHORT), tuple(f"siglip/{name}" for name in RUN)),
    "clip": (("--run-dir", "{folder}/clip", *SHORT), tuple(f"clip/{name}" for name in RUN)),
    "zero_shot": (("--output", "{folder}/zero_shot.json"), ("zero_shot.json", "zero_shot.html")),
    "embed": (("--index", "{folder}/index", "--model", "{folder}/siglip"), ("index/index.json", "index/vectors.npy")),
    "search": (
        ("--index", "{folder}/index", "--query", "red apple", "--output", "{folder}/search.json"),
        ("search.json", "search.html"),
    ),
    "evaluate": (
        ("--model", "{folder}/siglip", "--output", "{folder}/judged/results.json"),
        ("judged/results.json", "judged/results.html"),
    ),
    "export": (
        ("--model", "{folder}/siglip", "--output", "{folder}/exported"),
        ("exported/image.onnx", "exported/text.onnx", "exported/export.json"),
    ),
    "demo": (("--help",), ()),  # it serves until it is stopped; its tests ask it everything
}

# These tests import neither Keras nor a framework, so they run with the first backend only.
WITHOUT_KERAS = [
    "tests/test_*.py",
    "tests/core/data/*",
    "tests/core/evaluation/*",
    "tests/core/training/test_checkpoint*.py",
    *(
        f"tests/core/training/test_{name}.py"
        for name in ("card", "metrics", "progress", "run_folder", "signals", "tensorboard")
    ),
    "tests/core/weights/*",
    "tests/oracle/*",
]

# What tests one framework's own code, run with it alone.
NATIVE = {backend: f"tests/backends/{backend}/*" for backend in BACKENDS}


@nox.session
def everything(session: nox.Session) -> None:
    """Make the shared environment: jax, torch and tensorflow for CPUs, every extra, and this checkout."""
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + Path(__file__).read_bytes()).hexdigest()
    stamp = Path(session.virtualenv.location) / "installed"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    install_torch_for_cpu(session)
    session.install("jax", TENSORFLOW, "-e", ".[parquet,tensorboard,tokenizers,hub,search,export,dev]")
    stamp.write_text(wanted)


def install_torch_for_cpu(session: nox.Session) -> None:
    """On Linux the plain name `torch` brings gigabytes of CUDA; the build for CPUs has a version of its own."""
    if platform.system() != "Linux":
        session.install(f"torch=={TORCH}")
        return
    try:
        session.install(f"torch=={TORCH}+cpu")
    except CommandFailed:
        session.log(f"The package index in use has no torch {TORCH}+cpu; asking {TORCH_INDEX_URL}.")
        session.install(f"torch=={TORCH}+cpu", "--index-url", TORCH_INDEX_URL)


def python(session: nox.Session, *arguments: str, backend: str = "jax", silent: bool = False, **variables: str) -> str:
    """Run the shared environment's Python on one backend, out of reach of the person's own Keras settings."""
    shared, keras_home = ROOT / session.cache_dir.parent / "everything", ROOT / session.cache_dir / "keras"
    program = shared / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    variables |= {"KERAS_BACKEND": backend, "KERAS_HOME": str(keras_home), "TF_CPP_MIN_LOG_LEVEL": "2"}
    variables["PATH"] = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    return session.run(str(program), *arguments, env=variables, external=True, silent=silent)


@nox.session(venv_backend="none", requires=["everything"])
@nox.parametrize("backend", BACKENDS)
def tests(session: nox.Session, backend: str) -> None:
    """The unit tests on one backend; those that need no Keras run with jax only."""
    elsewhere = [path for other, path in NATIVE.items() if other != backend] + ["tests/agreement/*"]
    elsewhere += [] if backend == BACKENDS[0] else WITHOUT_KERAS
    skipped = [f"--ignore-glob={path}" for path in elsewhere]
    python(session, "-m", "pytest", "tests", *skipped, *session.posargs, backend=backend)


@nox.session(venv_backend="none", requires=["everything"])
def agreement(session: nox.Session) -> None:
    """The three backends against a float64 oracle and each other, from one process."""
    python(session, "-m", "pytest", "tests/agreement", *session.posargs, DIPTYCH_REQUIRE_BACKENDS=",".join(BACKENDS))


@nox.session
def lint(session: nox.Session) -> None:
    """ruff check, ruff format and mypy; with -- fix, ruff mends what it can."""
    session.install("--quiet", *LINTERS)
    fix = "fix" in session.posargs
    session.run("ruff", "check", *(["--fix"] if fix else []), ".")
    session.run("ruff", "format", *([] if fix else ["--check"]), ".")
    session.run("mypy")


@nox.session(venv_backend="none", requires=["everything"])
def wheel(session: nox.Session) -> None:
    """Build, install elsewhere: one package, every file, and SigLIP in a Keras app in another folder."""
    with tempfile.TemporaryDirectory(prefix="wheel-") as temporary:
        folder = Path(temporary)
        python(session, "-m", "tests.packaging", str(folder / "built"))
        (built,) = (folder / "built").glob("*.whl")
        python(session, "-m", "venv", str(folder / "empty"))
        (site,) = (folder / "empty").glob("lib/python3*/site-packages")
        before = set(site.iterdir())
        installed = str(folder / "empty" / "bin" / "python")
        session.run(installed, "-m", "pip", "install", "--quiet", "--no-deps", str(built), external=True)
        added = sorted(path.name for path in set(site.iterdir()) - before)
        if [name for name in added if not name.endswith(".dist-info")] != ["diptych"]:
            session.error(f"the wheel put {added} into site-packages, expected diptych and its metadata")
        app = shutil.copytree(ROOT / "examples" / "keras_app", folder / "app")
        with session.chdir(app):
            for backend in BACKENDS:
                printed = (
                    python(session, "app.py", backend=backend, PYTHONPATH=str(site), silent=True)
                    .strip()
                    .splitlines()[-1]
                )
                if f"from {site}" not in printed:
                    session.error(f"the app did not use the installed diptych: {printed}")
                session.log(printed)
            for name in recipe_names(session):
                python(session, "-m", f"diptych.recipes.{name}", "--help", PYTHONPATH=str(site), silent=True)


@nox.session(venv_backend="none", requires=["everything"])
def docs(session: nox.Session) -> None:
    """Run each command in README, CONTRIBUTING and docs that is not marked with the reason why not."""
    python(session, "-m", "tests.document_commands")


@nox.session(venv_backend="none", requires=["everything"])
@nox.parametrize("backend", BACKENDS)
def recipes(session: nox.Session, backend: str) -> None:
    """Each recipe at its tiny size, from data to report, on one backend."""
    recipe_names(session)
    with tempfile.TemporaryDirectory(prefix=f"recipes-{backend}-") as folder:
        for name, (arguments, files) in TINY.items():
            python(session, "-m", f"recipes.{name}", *(a.format(folder=folder) for a in arguments), backend=backend)
            missing = [file for file in files if not Path(folder, file).exists()]
            if missing:
                session.error(f"recipes.{name} on {backend} ended without {missing}")


def recipe_names(session: nox.Session) -> list[str]:
    """The recipes in `recipes/`; each must have its tiny size in TINY, and none is an error."""
    names = sorted(
        path.stem for path in ROOT.glob("recipes/[!_]*.py") if "__main__" in path.read_text(encoding="utf-8")
    )
    if not names or set(names) != set(TINY):
        session.error(f"recipes/ holds {names}, and TINY in the noxfile has {sorted(TINY)}")
    return names


@nox.session
def gpu(session: nox.Session) -> None:
    """Tests, tuning and benchmarks on a GPU, ten minutes at most; --no-venv takes the frameworks already installed.

    `-- --backends torch` takes one alone. `python -m benchmarks.gpu` is the same where there is no nox.
    """
    if session.virtualenv.venv_backend != "none":
        session.install(*CUDA.values(), "-e", ".[dev]")
    session.run("python", "-m", "benchmarks.gpu", *session.posargs, external=True)


@nox.session(venv_backend="none", requires=["everything"])
def benchmark(session: nox.Session) -> None:
    """Time everything in benchmarks/ and print its tables; with -- NAME, one of them."""
    for name in session.posargs or sorted(path.stem for path in ROOT.glob("benchmarks/[!_]*.py")):
        python(session, "-m", f"benchmarks.{name}")
