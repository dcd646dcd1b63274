"""The pool itself: who takes part, and that noise, errors and deaths of workers are what they are and no more."""

import subprocess
import sys
from unittest import mock

import pytest

from diptych.backends.selection import BACKENDS
from tests.agreement.pool import Pool, WorkerDied, WorkerFailed, required_backends
from tests.tree import ROOT

ONE_BACKEND = "torch"


@pytest.mark.parametrize("backend", BACKENDS)
def test_backend_takes_part(workers, backend):
    _, facts, missing = workers
    if backend in missing:
        pytest.skip(missing[backend])
    assert facts[backend]["backend"] == backend


def test_required_backends_take_part(workers):
    pool, _, _ = workers
    assert set(required_backends()) <= set(pool.backends)


def test_prints_do_not_reach_the_replies(pool):
    assert set(pool.ask("shout").values()) == {"heard"}
    for worker in pool.workers.values():
        assert "printed by a library" in worker.output()
        assert "written by C code" in worker.output()


def test_an_error_in_one_worker_leaves_the_replies_in_order(pool):
    with pytest.raises(WorkerFailed, match="AttributeError"):
        pool.ask("no_such_request")
    assert set(pool.ask("shout").values()) == {"heard"}


def test_a_dead_worker_is_reported_with_its_last_words_and_replaced():
    pool = Pool(["jax"])
    try:
        with pytest.raises(WorkerDied, match=r"(?s)jax worker ended with code 17.*the last word of a dying worker"):
            pool.ask("crash")
        assert pool.ask("shout") == {"jax": "heard"}
    finally:
        pool.stop()


def test_a_request_that_was_given_up_is_not_answered_later(monkeypatch):
    """As when a time limit stops a test between question and answer."""
    pool = Pool(["torch"])
    try:
        (worker,) = pool.workers.values()
        with monkeypatch.context() as patch:
            patch.setattr(worker, "receive", mock.Mock(side_effect=KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                pool.ask("describe")
        assert pool.ask("shout") == {"torch": "heard"}
    finally:
        pool.stop()


def test_this_side_imports_no_keras():
    program = (
        "import sys, tests.agreement.test_models, tests.agreement.test_training, tests.agreement.test_optimizers;"
        "sys.exit(bool({'keras', 'jax', 'torch', 'tensorflow'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0
