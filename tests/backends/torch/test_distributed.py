"""The sigmoid loss over three gloo ranks is that of one process, and sends what it says and no more."""

import json
import subprocess
import sys

import pytest

pytest.importorskip("torch")
EXCHANGES = ("ring", "gather")


@pytest.fixture(scope="module")
def ranks():
    """A report a rank."""
    done = subprocess.run([sys.executable, "-m", "tests.backends.torch.three_ranks"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    reports = json.loads(done.stdout.strip().splitlines()[-1])
    assert len(reports) == 3
    return reports


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_value_and_gradients_are_those_of_one_process(ranks, exchange):
    for report in ranks:
        assert len(report[exchange]["errors"]) == 5
        assert max(report[exchange]["errors"]) <= 1e-6
        assert report[exchange]["forward_error"] <= 1e-6


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_gradients_to_be_averaged_are_larger_by_the_number_of_ranks(ranks, exchange):
    assert max(error for report in ranks for error in report[exchange]["mean_errors"]) <= 1e-6


def test_the_ring_sends_texts_and_gradients_while_it_computes(ranks):
    """Both are waited for only once the block after them is done; the one gather is that of the sizes."""
    for report in ranks:
        assert report["ring"]["events"] == [
            "all_gather_into_tensor",
            "send texts", "sweep", "send gradient", "wait for texts",
            "send texts", "sweep", "wait for gradient", "send gradient", "wait for texts",
            "sweep", "wait for gradient", "send gradient", "wait for gradient",
            "all_reduce",
        ]  # fmt: skip


def test_the_gather_has_one_collective_each_way(ranks):
    for report in ranks:
        assert report["gather"]["events"] == [
            "all_gather_into_tensor", "all_gather_into_tensor", "sweep", "reduce_scatter_tensor", "all_reduce",
        ]  # fmt: skip


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_autocast_changes_nothing(ranks, exchange):
    assert not any(changed for report in ranks for changed in report[exchange]["autocast_changes"])


def test_a_group_of_some_ranks_is_a_batch_of_its_own(ranks):
    assert all(max(report["subgroup"]) <= 1e-6 for report in ranks[1:])


def test_uneven_batches_are_refused_on_every_rank(ranks):
    for report in ranks:
        assert "rank 0: [10, 24] images, [10, 24] texts; rank 1: [11, 24]" in report["uneven"]


def test_differentiating_twice_is_refused(ranks):
    assert all("first derivatives only" in report["twice"] for report in ranks)
