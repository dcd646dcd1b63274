"""The rows of all processes are the batch, and what cannot be dealt out is refused."""

import json

import pytest

from diptych.core.placement import ALONE, Placement, launched


@pytest.mark.parametrize(("processes", "devices"), [(1, 1), (2, 1), (3, 2), (4, 4)])
def test_every_row_belongs_to_one_process(processes, devices):
    size = 48
    dealt = [Placement(process=i, processes=processes, devices=devices).rows(size) for i in range(processes)]
    assert [row for runs in dealt for run in runs for row in run] == list(range(size))


def test_the_first_pieces_of_all_processes_are_the_first_piece_of_the_batch():
    first, second = (Placement(process=process, processes=2).rows(16, pieces=2) for process in range(2))
    assert (first, second) == ((range(0, 4), range(8, 12)), (range(4, 8), range(12, 16)))
    with pytest.raises(ValueError, match="in 2 pieces, over 2 processes with 3 devices each: .* multiple of 12"):
        Placement(processes=2, devices=3).rows(30, pieces=2)


def test_one_process_writes():
    assert [Placement(process=i, processes=3).writes for i in range(3)] == [True, False, False]
    assert ALONE.writes
    assert ALONE.rows(7) == (range(7),)


@pytest.mark.parametrize("given", [{"process": 1}, {"process": -1, "processes": 2}, {"devices": 0}])
def test_a_process_that_cannot_be_is_refused(given):
    with pytest.raises(ValueError, match="processes 0 to n - 1"):
        Placement(**given)


@pytest.mark.parametrize("fsdp", [0, 4, 12])
def test_state_is_spread_over_a_divisor_of_all_devices(fsdp):
    assert Placement(processes=2, devices=3, fsdp=3).fsdp == 3
    with pytest.raises(ValueError, match=f"--fsdp {fsdp} .* there are 6 .2 processes with 3 each"):
        Placement(processes=2, devices=3, fsdp=fsdp)


def test_a_batch_that_cannot_be_dealt_out_says_what_could():
    with pytest.raises(ValueError, match="multiple of 6"):
        Placement(processes=3, devices=2).rows(16)


@pytest.mark.parametrize(
    "environment",
    [
        {"WORLD_SIZE": "2", "RANK": "0"},
        {"OMPI_COMM_WORLD_SIZE": "4"},
        {"PMI_SIZE": "2"},
        {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"},
        {"SLURM_NTASKS": "2", "SLURM_PROCID": "1"},
        {"KERAS_DISTRIBUTION_NUM_PROCESSES": "2"},
        {"TF_CONFIG": '{"cluster": {"chief": ["a:1"], "worker": ["b:1"]}, "task": {"type": "worker", "index": 0}}'},
    ],
)
def test_one_of_several_processes_is_known_by_the_name_that_says_so(environment):
    assert launched(environment).keys() & environment.keys()


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"WORLD_SIZE": "1", "RANK": "0"},
        {"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_JOB_ID": "7"},  # a batch script, which is one process
        {"SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
        {"TF_CONFIG": '{"cluster": {"worker": ["a:1"]}}'},
        {"TF_CONFIG": "no JSON"},
        {"WORLD_SIZE": "many"},
    ],
)
def test_a_process_that_is_alone_is_known_as_that(environment):
    assert launched(environment) == {}


def three(number: int, values: list) -> Placement:
    """One of three processes that say these values."""
    said = [json.dumps(value).encode() for value in values]
    return Placement(process=number, processes=3, gather=lambda own: said if own == said[number] else [])


def test_all_hear_what_each_process_says():
    values = [{"loss": 1.5}, None, "a longer word, as ÄÖ"]
    assert all(three(number, values).told(values[number]) == values for number in range(3))
    assert ALONE.told({"loss": 1.5}) == [{"loss": 1.5}]


def test_what_differs_between_processes_is_refused_with_each_ones_value():
    three(1, [7, 7, 7]).check_same(7, "the newest checkpoint")
    with pytest.raises(ValueError, match="differ in the newest checkpoint: process 0: 7; process 1: 8; process 2: 7"):
        three(2, [7, 8, 7]).check_same(7, "the newest checkpoint")
