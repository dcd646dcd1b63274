"""Steps that several processes take together are those of one, whatever is learnt, and send while they compute."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("torch")
from diptych.backends.torch.whole_batch import dealt

THOROUGH = bool(os.environ.get("DIPTYCH_THOROUGH"))
CASES = ("every loss, spread", "every loss, in units", "recomputed, in units", "curated", "classifier", "resnet")
CASES += ("bit, in units", "gpt1, in units")
CASES += ("every loss", "every loss in pieces", "gathered", "bit", "gpt1") if THOROUGH else ()
LARGEST_DIFFERENCE = 1e-6
OF_NORMS = 1e-5
"""Of the gradient's, which is a large one of weights that are equal to 1e-7."""


@pytest.fixture(scope="module", params=[2, 3, 4] if THOROUGH else [2])
def processes(request):
    """A report a process."""
    command = [sys.executable, "-m", "tests.backends.torch.shared_steps", str(request.param), *CASES]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    reports = json.loads(done.stdout.strip().splitlines()[-1])
    assert len(reports) == request.param
    return reports


@pytest.mark.parametrize("case", CASES)
def test_losses_weights_slots_and_averages_are_those_of_one(processes, case):
    for report in processes:
        assert report[case].keys() >= {"logs", "norms", "weights", "slots", "averages", "evaluated"}
        for kind, (difference, name) in report[case].items():
            assert difference <= (OF_NORMS if kind == "norms" else LARGEST_DIFFERENCE), f"{kind} {name}"


def test_gradients_are_sent_once_a_step_while_others_are_still_to_come(processes):
    """Of the two micro-batches the second sends; each message leaves before the gradients that the next one holds."""
    for report in processes:
        events, weights = report["overlap"]["events"], report["overlap"]["weights"]
        sent = [number for number, event in enumerate(events) if event.startswith("send ")]
        gradients = len(events) - len(sent)
        assert gradients == 2 * weights - 2, "of the scale and the bias, on which the pairs' loss alone depends, once"
        assert sent[0] > weights, "the first micro-batch sends nothing"
        assert len(sent) > 20
        between = [b - a for a, b in zip(sent, sent[1:], strict=False)]
        assert sum(gap > 1 for gap in between) > 0.9 * len(between), "gradients come between messages"
        numbers = sum(int(events[number].split()[1]) for number in sent)
        assert 0 <= numbers - report["overlap"]["numbers"] < len(processes) * len(sent), "each once, padded"


def test_what_is_spread_takes_its_part_of_the_memory(processes):
    """Two slots, the average and the teacher, and in units the weights; counters and centres stay whole."""
    for report in processes:
        whole, spread, in_units = (report["bytes"][how] for how in ("whole", "spread", "in units"))
        state = whole["all"] - whole["weights"]
        assert state > 3 * whole["weights"]
        assert spread["all"] == pytest.approx(whole["weights"] + state / len(processes), abs=1_000)
        assert in_units["all"] == pytest.approx(whole["all"] / len(processes), abs=0.06 * whole["all"])


def test_rows_are_dealt_out_evenly_and_no_more_move_than_must():
    """Of four processes with six rows each the first holds six of the chosen eight, and the last two none."""
    kept, moves = dealt([0, 1, 2, 3, 4, 5, 6, 11], own=6, parts=4)
    assert kept == [[0, 1], [0, 5], [], []]
    assert moves == {(0, 2): [2, 3], (0, 3): [4, 5]}
    with pytest.raises(ValueError, match="multiple of 4"):
        dealt([0, 1, 2], own=6, parts=4)
