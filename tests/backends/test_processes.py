"""Processes that a launcher started join on the backend that knows the launcher, and are refused on others."""

import pytest

from diptych import backends
from diptych.core.placement import ALONE

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
SRUN = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"}
KNOWN = {"jax": [SRUN, {"TPU_WORKER_HOSTNAMES": "a,b"}], "torch": [TORCHRUN], "tensorflow": []}
COORDINATOR = ("localhost:1", 2, 1)


@pytest.fixture
def joined(monkeypatch) -> list:
    """What the backend was asked to join by, in place of joining."""
    asked: list = []
    if backends.name() != "tensorflow":
        monkeypatch.setattr(backends.room(), "join", asked.append)
    monkeypatch.setattr(backends.room(), "processes", lambda: (1, 2) if asked else (0, 1))
    return asked


def test_a_process_of_which_nobody_says_otherwise_is_alone(joined):
    assert backends.join({"HOME": "/root", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}) == ALONE
    assert not joined


@pytest.mark.parametrize("environment", [TORCHRUN, SRUN, {"TPU_WORKER_HOSTNAMES": "a,b"}, {"TF_CONFIG": "two"}])
def test_each_backend_joins_by_its_own_launchers_and_refuses_the_others(environment, joined):
    if environment == {"TF_CONFIG": "two"}:
        environment = {"TF_CONFIG": '{"cluster": {"worker": ["a:1", "b:1"]}}'}
    if environment in KNOWN[backends.name()]:
        placement = backends.join(environment, devices=2 if backends.name() == "jax" else 1)
        assert (placement.process, placement.processes, placement.writes) == (1, 2, False)
        assert len(joined) == 1
    elif "TPU_WORKER_HOSTNAMES" in environment:
        assert backends.join(environment) == ALONE
    else:
        with pytest.raises(ValueError, match="one of several") as refused:
            backends.join(environment)
        assert any(f"{variable}=" in str(refused.value) for variable in environment)
        assert not joined


def test_a_part_of_what_torchrun_says_is_refused(joined):
    with pytest.raises(ValueError, match="WORLD_SIZE=2"):
        backends.join({"RANK": "0", "WORLD_SIZE": "2"})
    assert not joined


def test_a_coordinator_is_jaxs(joined):
    if backends.name() == "jax":
        assert backends.join(TORCHRUN, coordinator=COORDINATOR).processes == 2
        assert joined == [COORDINATOR]
        return
    with pytest.raises(ValueError, match="--coordinator-address brings processes of jax together"):
        backends.join({}, coordinator=COORDINATOR)
