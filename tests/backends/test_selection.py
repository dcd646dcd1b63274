"""The backend is chosen by what is set and what is installed, before Keras is imported."""

import importlib.util
import os
import subprocess
import sys
from importlib.machinery import ModuleSpec

import pytest

from diptych.backends import selection
from diptych.backends.selection import BACKENDS, BackendNotAvailable, installed_backends, select_backend
from tests.tree import ROOT


@pytest.fixture
def machine(monkeypatch):
    """A machine without Keras imported, where exactly the given frameworks are installed and KERAS_BACKEND is as
    given.
    """

    def make(installed: tuple[str, ...], variable: str | None):
        specs = {name: ModuleSpec(name, loader=object(), origin=f"{name}/__init__.py") for name in installed}
        monkeypatch.setattr(selection, "find_spec", specs.get)
        monkeypatch.delitem(sys.modules, "keras", raising=False)
        monkeypatch.setenv("KERAS_BACKEND", "")
        if variable is None:
            monkeypatch.delenv("KERAS_BACKEND")
        else:
            monkeypatch.setenv("KERAS_BACKEND", variable)

    return make


@pytest.mark.parametrize(
    ("installed", "expected"),
    [
        (("jax", "torch", "tensorflow"), "jax"),
        (("tensorflow", "torch"), "torch"),
        (("tensorflow",), "tensorflow"),
    ],
)
@pytest.mark.parametrize("variable", [None, ""])
def test_unset_takes_the_first_installed(machine, installed, expected, variable):
    machine(installed, variable)
    assert select_backend() == expected
    assert os.environ["KERAS_BACKEND"] == expected


@pytest.mark.parametrize("backend", BACKENDS)
def test_set_and_installed_is_kept(machine, backend):
    machine(BACKENDS, backend)
    assert select_backend() == backend == os.environ["KERAS_BACKEND"]


def test_set_but_not_installed_says_what_to_type(machine):
    machine(("jax", "tensorflow"), "torch")
    with pytest.raises(BackendNotAvailable) as error:
        select_backend()
    message = str(error.value)
    assert 'pip install "diptych[torch]"' in message
    assert "KERAS_BACKEND=jax" in message
    assert "KERAS_BACKEND=tensorflow" in message
    assert os.environ["KERAS_BACKEND"] == "torch"


def test_unknown_lists_the_valid_ones(machine):
    machine(("torch",), "pytorch")
    with pytest.raises(
        BackendNotAvailable, match=r"'pytorch' is not a backend.*jax, torch, tensorflow.*KERAS_BACKEND=torch"
    ):
        select_backend()


@pytest.mark.parametrize("variable", [None, "tensorflow", "numpy"])
def test_nothing_installed_says_what_to_type(machine, variable):
    machine((), variable)
    backend = variable if variable in BACKENDS else "jax"
    with pytest.raises(BackendNotAvailable) as error:
        select_backend()
    assert f'pip install "diptych[{backend}]"' in str(error.value)


def test_a_bare_folder_of_the_name_is_not_an_installation(monkeypatch):
    monkeypatch.setattr(selection, "find_spec", lambda name: ModuleSpec(name, loader=None, is_package=True))
    assert installed_backends() == ()


def test_keras_on_another_backend_is_refused():
    """In a process of its own: a Keras that already runs on one backend cannot be asked for another."""
    code = (
        "import sys, types, os; keras = types.ModuleType('keras'); keras.config = "
        "types.SimpleNamespace(backend=lambda: 'numpy');sys.modules['keras'] = keras; from diptych.backends.selection "
        "import select_backend; select_backend()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "Keras was imported on numpy" in done.stderr


def test_the_choice_imports_no_framework():
    code = (
        "import sys; from diptych.backends.selection import select_backend; print(select_backend());"
        "print(sorted({'keras', 'jax', 'torch', 'tensorflow', 'numpy'} & set(sys.modules)))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    first = next(name for name in BACKENDS if importlib.util.find_spec(name))
    assert done.stdout.splitlines() == [first, "[]"]
