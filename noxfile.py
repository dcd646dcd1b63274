"""The manual: what can be run on this project, and what it needs.

    nox -l                          the sessions, a line each
    nox                             what continuous integration runs: lint, wheel, docs, recipes, tests, agreement
    nox -s tests                    the tests on three backends, one after the other
    nox -s "tests(backend='jax')"   the tests on one
    nox -s tests -- -k schedules    what follows -- goes to pytest
    nox -s quick                    what one runs while working
    nox -s supported-3.13           the same with another Python, in an environment of its own
    nox -s thorough                 what is long by nature, before a change is called done

Sessions that need Keras share one virtual environment with all three frameworks, `.nox/everything` (3 GB, a minute and
a half to install), made by the session of that name with the Python that runs nox. It is for CPUs: torch's CPU build,
from TORCH_INDEX_URL where the package index in use does not have it, and tensorflow-cpu. `gpu` alone installs builds
for CUDA, of jax and torch: tensorflow's needs another CUDA than theirs.
"""

import hashlib
import os
import platform
import shutil
import tempfile
from pathlib import Path

import nox
from nox.command import CommandFailed

nox.needs_version = ">=2026.10.20"
nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "wheel", "docs", "recipes", "tests", "agreement"]

ROOT = Path(__file__).parent
BACKENDS = ["jax", "torch", "tensorflow"]
SUPPORTED = ["3.11", "3.12", "3.13"]
LINTERS = ["ruff==0.17.6", "mypy==2.4.1", "numpy"]
MANUAL = ["mkdocs==1.6.1", "mkdocs-material==9.8.2", "mkdocstrings==1.0.8", "mkdocstrings-python==2.0.11"]

TORCH = "2.13.0"
TORCH_INDEX_URL = os.environ.get("TORCH_INDEX_URL", "https://download.pytorch.org/whl/cpu")
TENSORFLOW = "tensorflow-cpu" if platform.system() == "Linux" and platform.machine() == "x86_64" else "tensorflow"
CUDA = {"jax": "jax[cuda13]", "torch": "torch"}
# The compiler for TPUs, 137 MB, lies beside the packages: where jax finds it, every process looks for a TPU.
HAS_LIBTPU = platform.system() == "Linux" and platform.machine() == "x86_64"

# Tests run side by side in processes of one thread each: two a core, since some wait, and four at most, for the memory.
PROCESSES = min(4, 2 * (os.cpu_count() or 1))
ONE_THREAD = {
    **dict.fromkeys(
        ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1"
    ),
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
}
# The same operations by simpler machine code, which XLA writes in half the time.
QUICKLY_COMPILED = {"XLA_FLAGS": f"{ONE_THREAD['XLA_FLAGS']} --xla_backend_optimization_level=0"}
EVERY_BACKEND = {"DIPTYCH_REQUIRE_BACKENDS": ",".join(BACKENDS)}
# What is long by nature: kills, examples of property tests, every recipe on every backend, machine code as in use.
THOROUGH = {
    "DIPTYCH_THOROUGH": "1",
    "DIPTYCH_KILLS": "20",
    "DIPTYCH_EXAMPLES": "16",
}

# What was measured lies here afterwards; `python -m tests.times` reads it.
TIMES = ROOT / ".nox" / "times"
TIMES.mkdir(parents=True, exist_ok=True)
nox.options.report = str(TIMES / "sessions.json")

# These tests import neither Keras nor a framework, so they run with the first backend only.
WITHOUT_KERAS = [
    "tests/test_*.py",
    "tests/core/data/*",
    "tests/core/evaluation/*",
    "tests/core/files/*",
    "tests/core/report/*",
    "tests/core/training/test_checkpoint*.py",
    *(
        f"tests/core/training/test_{name}.py"
        for name in ("card", "metrics", "progress", "recipe", "run_folder", "signals", "tensorboard", "trackers")
    ),
    "tests/core/weights/*",
    "tests/oracle/*",
    "tests/recipes/test_interruptions.py",
]

# What tests one framework's own code, run with it alone.
NATIVE = {backend: f"tests/backends/{backend}/*" for backend in BACKENDS}


# tensorflow keeps what XLA has compiled for it while a process lives, most of it for these, which have processes of
# their own.
BY_XLA = [
    "tests/backends/tensorflow/test_sigmoid_loss.py",
    "tests/backends/tensorflow/test_distributed.py",
    "tests/backends/test_loss.py",
]

# `python -m diptych.recipes.NAME --help` for each name, in one process.
ASK_FOR_HELP = """
import runpy, sys
for name in sys.argv[1:]:
    sys.argv = [name, "--help"]
    try:
        runpy.run_module(f"diptych.recipes.{name}", run_name="__main__")
    except SystemExit as ended:
        assert not ended.code, name
"""


@nox.session
def everything(session: nox.Session) -> None:
    """Make the shared environment: jax, torch and tensorflow for CPUs, every extra, and this checkout."""
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + Path(__file__).read_bytes()).hexdigest()
    stamp = Path(session.virtualenv.location) / "installed"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    install_all(session)
    if HAS_LIBTPU:
        libtpu = str(Path(session.virtualenv.location) / "libtpu")
        session.run("python", "-m", "pip", "install", "--quiet", "--upgrade", "--no-deps", "--target", libtpu, "libtpu")
    stamp.write_text(wanted)


def install_all(session: nox.Session) -> None:
    """All three frameworks for CPUs, every extra, and this checkout, into the session's own environment."""
    install_torch_for_cpu(session)
    session.install("jax", TENSORFLOW, "-e", ".[fast,parquet,tokenizers,hub,gpt1,search,export,dev]")


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


def python(
    session: nox.Session,
    *arguments: str,
    backend: str = "jax",
    silent: bool = False,
    environment: str = "everything",
    **variables: str,
) -> str:
    """Run an environment's Python, the shared one's, on one backend, out of reach of the person's own Keras settings.

    What jax has compiled is kept for all processes and all later runs; its key holds machine, versions and options.
    """
    folder, keras_home = ROOT / session.cache_dir.parent / environment, ROOT / session.cache_dir / "keras"
    program = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    variables = {
        "KERAS_BACKEND": backend,
        "KERAS_HOME": str(keras_home),
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / session.cache_dir / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
    } | variables
    return session.run(str(program), *arguments, env=variables, external=True, silent=silent)


BY_FILE = ("--dist", "loadfile", "--no-loadscope-reorder")  # what is compiled for a file is compiled once
ONE_BY_ONE = ("--dist", "load", "--maxschedchunk", "1")


def pytest(
    session: nox.Session,
    *arguments: str,
    part: str = "",
    backend: str = "jax",
    processes: int = PROCESSES,
    **variables: str,
) -> None:
    """Run tests in processes side by side. A whole part of continuous integration leaves its times."""
    variables = ONE_THREAD | variables | ({} if session.posargs else {"DIPTYCH_PART": part})
    python(session, "-m", "pytest", "-n", str(processes), *arguments, *session.posargs, backend=backend, **variables)


def unit_tests(session: nox.Session, backend: str, *arguments: str, part: str = "", **variables: str) -> None:
    """The unit tests on one backend; those that need no Keras run with the first alone."""
    elsewhere = [path for other, path in NATIVE.items() if other != backend] + ["tests/agreement/*", "tests/commands/*"]
    elsewhere += [] if backend == BACKENDS[0] else WITHOUT_KERAS
    skipped = [f"--ignore-glob={path}" for path in elsewhere]
    if backend == "tensorflow" and not session.posargs:
        own = f"{part} by XLA" if part else ""
        pytest(session, *BY_XLA, *BY_FILE, *arguments, part=own, backend=backend, processes=len(BY_XLA), **variables)
        skipped += [f"--ignore={path}" for path in BY_XLA]
    pytest(session, "tests", *skipped, *BY_FILE, *arguments, part=part, backend=backend, **variables)


@nox.session(venv_backend="none", requires=["everything"])
@nox.parametrize("backend", BACKENDS)
def tests(session: nox.Session, backend: str) -> None:
    """The unit tests on one backend; those that need no Keras run with jax only, and so does the compiler for TPUs."""
    unit_tests(session, backend, part=f"tests {backend}", **QUICKLY_COMPILED)
    if backend == "jax" and HAS_LIBTPU and not session.posargs:
        compile_for_tpus(session)


@nox.session(venv_backend="none", requires=["everything"])
def agreement(session: nox.Session) -> None:
    """The three backends against a float64 oracle and each other."""
    pytest(session, "tests/agreement", *BY_FILE, part="agreement", **EVERY_BACKEND)


@nox.session(venv_backend="none", requires=["everything"])
def docs(session: nox.Session) -> None:
    """Run each command in README, CONTRIBUTING and docs that is not marked with the reason why not."""
    pytest(session, "tests/commands/test_documents.py", *ONE_BY_ONE, part="documents", **QUICKLY_COMPILED)


@nox.session(venv_backend="none", requires=["everything"])
def recipes(session: nox.Session) -> None:
    """Each recipe at its tiny size, from data to report: all on jax, on the others training and export."""
    pytest(session, "tests/commands/test_recipes.py", *ONE_BY_ONE, part="recipes", **QUICKLY_COMPILED)


@nox.session(venv_backend="none", requires=["everything", "lint"])
def quick(session: nox.Session) -> None:
    """What one runs while working, in less than four minutes: lint, and all tests that are quick on jax."""
    unit_tests(session, BACKENDS[0], "--quick", **QUICKLY_COMPILED)


@nox.session(python=SUPPORTED)
def supported(session: nox.Session) -> None:
    """The quick tests on jax with each Python that is supported and at hand, in an environment of its own."""
    install_all(session)
    unit_tests(session, BACKENDS[0], "--quick", environment=Path(session.virtualenv.location).name, **QUICKLY_COMPILED)


@nox.session(venv_backend="none", requires=["everything"])
@nox.parametrize("part", ["mutants", *BACKENDS, "agreement", "commands"])
def thorough(session: nox.Session, part: str) -> None:
    """What is long by nature: kills, many examples, all recipes on all backends, and the mutants."""
    if part == "mutants":
        mutants(session)
    elif part == "agreement":
        pytest(session, "tests/agreement", *BY_FILE, **EVERY_BACKEND, **THOROUGH)
    elif part == "commands":
        pytest(session, "tests/commands", *ONE_BY_ONE, **THOROUGH)
    else:
        unit_tests(session, part, **THOROUGH)


@nox.session(venv_backend="none", requires=["everything"])
def mutants(session: nox.Session) -> None:
    """Make each of the known faults, one at a time, and see that its test finds it; with -- NAME, one of them."""
    python(session, "-m", "tests.mutants", *session.posargs, **ONE_THREAD | QUICKLY_COMPILED)


@nox.session
def lint(session: nox.Session) -> None:
    """ruff check, ruff format and mypy; with -- fix, ruff mends what it can."""
    session.install("--quiet", *LINTERS)
    fix = "fix" in session.posargs
    session.run("ruff", "check", *(["--fix"] if fix else []), ".")
    session.run("ruff", "format", *([] if fix else ["--check"]), ".")
    session.run("mypy")


@nox.session
def manual(session: nox.Session) -> None:
    """The manual as a static site, to be searched offline: runs/manual/index.html, or -- --output FOLDER."""
    session.install("--quiet", *MANUAL, "-e", ".")
    session.run("python", "-m", "docs.manual.build", *session.posargs, env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session(venv_backend="none", requires=["everything"])
def pictures(session: nox.Session) -> None:
    """Draw the pictures in docs/pictures anew from what is stored, and say what the others need."""
    python(session, "-m", "docs.manual.pictures")


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
            recipes = sorted(
                path.stem for path in site.glob("diptych/recipes/[!_]*.py") if "__main__" in path.read_text()
            )
            python(session, "-c", ASK_FOR_HELP, *recipes, PYTHONPATH=str(site), silent=True)


@nox.session
def gpu(session: nox.Session) -> None:
    """What is worth knowing on a GPU, in eight minutes, into runs/gpu; --no-venv takes the frameworks installed.

    `-- --backends torch` takes one alone, `-- --output FOLDER` another folder. `python -m benchmarks.gpu --output
    FOLDER` is the same where there is no nox.
    """
    if session.virtualenv.venv_backend != "none":
        session.install(*CUDA.values(), "-e", ".[dev]")
    output = [] if "--output" in session.posargs else ["--output", "runs/gpu"]
    session.run("python", "-m", "benchmarks.gpu", *output, *session.posargs, external=True)


@nox.session(venv_backend="none", requires=["everything"])
def tpu(session: nox.Session) -> None:
    """The kernels, the ring and a step for TPUs by their own compiler, which needs no TPU."""
    compile_for_tpus(session)


def compile_for_tpus(session: nox.Session) -> None:
    """In a process of its own, which alone finds the compiler."""
    shared = ROOT / session.cache_dir.parent / "everything"
    variables = {"PYTHONPATH": str(shared / "libtpu"), "JAX_PLATFORMS": "cpu"}
    pytest(session, "tests/tpu", part="tests jax for TPUs", processes=1, **variables)


@nox.session(venv_backend="none", requires=["everything"])
def benchmark(session: nox.Session) -> None:
    """Time everything in benchmarks/ and print its tables; with -- NAME, one of them."""
    for name in session.posargs or sorted(path.stem for path in ROOT.glob("benchmarks/[!_]*.py")):
        python(session, "-m", f"benchmarks.{name}")
