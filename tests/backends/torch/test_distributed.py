"""The losses over three gloo ranks are those of one process, and send what they say and no more."""

import json
import subprocess
import sys

import pytest

pytest.importorskip("torch")
EXCHANGES = ("ring", "gather")
LOSSES = ("sigmoid_loss", "softmax_contrastive_loss")
SWEEPS = {"sigmoid_loss": 1, "softmax_contrastive_loss": 2}


@pytest.fixture(scope="module")
def all_ranks():
    done = subprocess.run([sys.executable, "-m", "tests.backends.torch.three_ranks"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    reports = json.loads(done.stdout.strip().splitlines()[-1])
    assert len(reports) == 3
    return reports


@pytest.fixture(params=LOSSES)
def loss(request):
    return request.param


@pytest.fixture
def ranks(all_ranks, loss):
    """A report a rank."""
    return [report[loss] for report in all_ranks]


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_value_and_gradients_are_those_of_one_process(ranks, loss, exchange):
    for report in ranks:
        assert len(report[exchange]["errors"]) == (5 if loss == "sigmoid_loss" else 4)
        assert max(report[exchange]["errors"]) <= 1e-6
        assert report[exchange]["forward_error"] <= 1e-6


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_gradients_to_be_averaged_are_larger_by_the_number_of_ranks(ranks, exchange):
    assert max(error for report in ranks for error in report[exchange]["mean_errors"]) <= 1e-6


def test_the_ring_sends_texts_and_gradients_while_it_computes(ranks, loss):
    """Both are waited for only once the block after them is done; the one gather is that of the sizes. Kernels leave a
    GPU's transfers some room.
    """
    sweep = "sweep in less room"
    for report in ranks:
        assert report["ring"]["events"] == [
            "all_gather_into_tensor",
            *[
                "send texts", sweep, "send gradient", "wait for texts",
                "send texts", sweep, "wait for gradient", "send gradient", "wait for texts",
                sweep, "wait for gradient", "send gradient", "wait for gradient",
            ] * SWEEPS[loss],
            "all_reduce",
        ]  # fmt: skip


def test_the_gather_has_one_collective_each_way(ranks, loss):
    """The softmax loss exchanges a number a text more: the normalisers of every rank's texts, and then of all."""
    normalisers = ["sweep", "all_to_all_single", "all_gather_into_tensor"] if loss != "sigmoid_loss" else []
    for report in ranks:
        assert report["gather"]["events"] == [
            "all_gather_into_tensor", "all_gather_into_tensor", *normalisers, "sweep", "reduce_scatter_tensor",
            "all_reduce",
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
