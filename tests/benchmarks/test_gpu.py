"""The command for a rented GPU, rehearsed on a CPU: what is known stays known, whatever hangs, crashes or is wrong."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.gpu import checks, journal, summary
from benchmarks.gpu.journal import Journal
from benchmarks.gpu.judge import OFFSET, fault
from benchmarks.gpu.stages import FAULTS, GPU, STAGES
from benchmarks.gpu.supervision import supervise
from benchmarks.loss_contest import BIAS, SCALE
from tests.conftest import BACKEND
from tests.tree import ROOT

THOROUGH = bool(os.environ.get("DIPTYCH_THOROUGH"))
FIRST = ("torch ceilings", "torch encoding")
"""Without DIPTYCH_THOROUGH the command runs these; the others share a process below, which imports everything once."""
TOGETHER = {
    "torch": ("torch compile", "torch block", "torch loss", "torch million", "torch small", "torch softmax"),
    "jax": ("jax loss", "jax small", "jax softmax"),
}


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=800)


@pytest.mark.skipif(BACKEND != "torch", reason="the stages that hang and crash are once enough")
def test_what_hangs_and_what_crashes_keeps_nothing_from_being_known(tmp_path):
    output = tmp_path / "output"
    chosen = [] if THOROUGH else ["--stages", *FIRST]
    done = run("benchmarks.gpu", "--rehearse", "--output", str(output), "--minutes", "20", *chosen)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    lines = journal.read(output / journal.NAME)
    outcomes = {line["stage"]: line["outcome"] for line in lines if line["kind"] == "stage"}
    expected = {stage.name for stage in STAGES if not stage.asked_for} if THOROUGH else set(FIRST)
    assert outcomes.keys() == expected | {stage.name for stage in FAULTS}
    assert outcomes.pop("torch hangs") == "out of time"
    assert outcomes.pop("torch crashes") == "failed with status -6"
    assert set(outcomes.values()) == {"passed"}
    (hanging,) = (line for line in lines if line.get("what") == "hangs")
    assert not is_alive(hanging["child"]), "the child of the stage that hangs outlived it"
    assert sum(1 for line in lines if line["kind"] == "product") == 7
    assert sorted(path.name for path in output.iterdir()) == ["logs.tar.gz", "results.jsonl", "summary.txt"]
    with tarfile.open(output / "logs.tar.gz") as logs:
        said = logs.extractfile("logs/torch-hangs.log").read().decode()
    assert "in _hang" in said, "where it hung is not said"
    kept = (output / summary.NAME).read_text()
    (output / summary.NAME).unlink()
    again = run("benchmarks.gpu", "--summarize", "--output", str(output))
    assert again.stdout == kept == (output / summary.NAME).read_text()
    assert "torch crashes" in kept
    refused = run("benchmarks.gpu", "--rehearse", "--output", str(output))
    assert "is there already" in refused.stderr


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and not yet waited for by whoever adopted it does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(BACKEND not in TOGETHER, reason="there is no kernel for tensorflow")
def test_every_stage_of_a_backend_finds_what_it_looks_for(tmp_path):
    path = tmp_path / journal.NAME
    names = TOGETHER[BACKEND] + (("jax block", "jax widths") if THOROUGH and BACKEND == "jax" else ())
    done = run("benchmarks.gpu.stage", *names, "--rehearse", "--journal", str(path), "--folder", str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    lines = journal.read(path)
    assert not [line for line in lines if "wrong" in line or "failed" in line]
    fast = {"torch": "triton", "jax": "xla"}[BACKEND]
    timed = {(line["contest"], line["contender"]) for line in lines if line["kind"] == "loss" and "ms" in line}
    contests = {"torch": ("alone", "as they are", "compiled", "million", "small")}.get(BACKEND, ("alone", "small"))
    assert {(contest, fast) for contest in contests} <= timed
    assert {("small", "naive"), ("softmax", "naive"), ("softmax", fast)} <= timed
    if BACKEND == "torch":
        assert {"checked", "block", "sweep", "compiled"} <= {line["kind"] for line in lines}
        assert all(line["sum_error"] < 1e-6 for line in lines if line.get("sum_error") is not None)
    text = summary.summarized(lines)
    assert fast in text
    assert "The whole loss and its gradients: small" in text


def test_a_line_that_was_cut_off_takes_no_other_with_it(tmp_path):
    path = tmp_path / journal.NAME
    Journal(path, "torch loss").write("loss", ms=float("nan"), tflops=1.5)
    with path.open("a") as file:
        file.write('{"stage": "torch loss", "ki')
    (line,) = journal.read(path)
    assert line["ms"] is None
    assert line["tflops"] == 1.5
    assert journal.read(tmp_path / "missing.jsonl") == []


def test_what_a_stage_started_ends_with_it_even_where_it_ends_well(tmp_path):
    log, kept = tmp_path / "log", tmp_path / "pid"
    child = "import subprocess, sys; p = subprocess.Popen(['sleep', '600']); open(sys.argv[1], 'w').write(str(p.pid))"
    command = [sys.executable, "-c", child, str(kept)]
    assert supervise(command, seconds=60, log=log, folder=tmp_path, environment=os.environ) == "passed"
    assert not is_alive(int(kept.read_text()))
    failing = [sys.executable, "-c", "raise SystemExit(3)"]
    assert supervise(failing, seconds=60, log=log, folder=tmp_path, environment=os.environ) == "failed with status 3"


def test_a_failing_test_is_written_down_with_what_it_said(tmp_path):
    report = checks.Report(Journal(tmp_path / journal.NAME, "torch tests"))
    for outcome, said in (("passed", ""), ("failed", "E   off by 3"), ("skipped", "")):
        kind = dict.fromkeys(("passed", "failed", "skipped"), False) | {outcome: True}
        report.pytest_runtest_logreport(
            SimpleNamespace(**kind, outcome=outcome, when="call", nodeid="test_x", longreprtext=said)
        )
    report.pytest_sessionfinish(1)
    failure, counts = journal.read(tmp_path / journal.NAME)
    assert (failure["test"], failure["said"]) == ("test_x", "E   off by 3")
    assert [counts[key] for key in ("status", "passed", "failed", "skipped")] == [1, 1, 1, 1]
    assert "off by 3" in summary.summarized([failure, counts])


def lines_of_a_gpu(triton_ms: float) -> list[dict]:
    """What a run might have left: a square product of 790 TFLOP/s, and others in units of 30 ms."""
    common = {"kind": "loss", "width": GPU.width, "stage": "torch loss"}

    def line(contest, contender, ms, size=GPU.batch, **fields):
        return {**common, "contest": contest, "contender": contender, "size": size, "ms": ms, **fields}

    square = 2 * GPU.square**3 / 790e12 * 1e3
    return [
        line("alone", "triton", 2 * triton_ms, extra_mib=600.0),  # a later line of the same replaces it
        line("alone", "triton", triton_ms, extra_mib=700.0),
        line("alone", "square product", square),
        line("alone", "pallas_gpu", 33.0, stage="jax loss"),
        line("as they are", "triton", triton_ms),
        line("as they are", "siglip-kernel", 48.0),
        line("as they are", "siglip-kernel, pipelined", 52.0),
        line("as they are", "open_clip", 70.0),
        line("small", "triton", 0.3, size=4096),
        line("small", "triton, torch.compile", 0.2, size=4096),
        line("small", "naive, torch.compile", 0.25, size=4096),
        line("small", "triton", 0.3, size=512),
        line("small", "naive, torch.compile", 0.1, size=512),
        {"kind": "checked", "stage": "torch block", "variant": "a", "sum_error": 2e-6},
    ]


def judged(lines: list[dict]) -> list[str]:
    """The last word of each aim, in order."""
    return [row.split()[-1] for row in summary.aims(lines).splitlines()[2:]]


def test_aims_are_reached_missed_or_not_measured():
    reached, missed, unknown = "reached", "missed", "measured"
    small_and_sums = [missed, missed]
    good = judged(lines_of_a_gpu(30.0))
    assert good == [reached, reached, reached, reached, unknown, reached, *small_and_sums]
    slow = judged(lines_of_a_gpu(40.0))
    assert slow == [missed, missed, missed, reached, unknown, reached, *small_and_sums]
    assert set(judged([])) == {unknown}
    assert json.loads(json.dumps(lines_of_a_gpu(30.0)))  # as they come from the file
    assert "not measured" in summary.summarized(lines_of_a_gpu(30.0))


@pytest.mark.skipif(BACKEND != "torch", reason="others' losses are torch's")
def test_a_rival_that_cannot_be_imported_says_so_when_it_is_called(tmp_path, monkeypatch):
    from benchmarks.native import torch_loss

    (tmp_path / "open_clip.py").write_text("import wanting_package")
    monkeypatch.syspath_prepend(tmp_path)
    contenders = torch_loss.contenders("float32", 8, peers=True)
    assert "naive" in contenders
    with pytest.raises(ModuleNotFoundError, match="wanting_package"):
        contenders["open_clip"](*torch_loss.embeddings(4, 8, "float32"))


def test_the_judge_of_a_kernel_refuses_wrong_answers():
    rng = np.random.default_rng(0)
    x, y = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in rng.normal(size=(2, 60, 16)))
    y = 0.99 * x + 0.1 * y
    s = x @ y.T
    right = 1 / (1 + np.exp(-(SCALE * s + BIAS)))
    softplus = np.log1p(np.exp(SCALE * s + BIAS))
    left_out = np.eye(60, k=OFFSET, dtype=bool) | (np.arange(60) >= 50)
    right[left_out] = softplus[left_out] = 0.0
    sums = np.stack([softplus.sum(0), (right * s).sum(0), right.sum(0)], axis=1)

    def reason(probabilities, sums):
        return fault(x, y, probabilities, sums, rows=60, columns=50, roundoff=1e-2)[0]

    assert reason(right, sums) is None
    assert reason(1.009 * right, sums) is None
    assert "probabilities are wrong" in reason(1.02 * right, sums)
    assert reason(np.where(left_out & (np.arange(60) < 50), 1.0, right), sums) == "13 of 3600 probabilities are wrong"
    assert reason(np.where(np.arange(60) == 3, np.nan, right), sums) == "60 of 3600 probabilities are wrong"
    assert "sums are off" in reason(right, sums * [1.0, 1.0, 1.0001])
    assert "sums are off" in reason(right, sums * np.nan)


@pytest.mark.skipif(BACKEND != "jax", reason="jax's kernel")
def test_padding_and_equal_bits_are_asked_of_a_jax_kernel():
    from benchmarks.gpu import mosaic
    from diptych.backends.jax.contrastive.sigmoid import xla_block

    calls = []

    def right(*arguments):
        return xla_block(*arguments, True)

    def different(*arguments):
        calls.append(1)
        probabilities, sums = right(*arguments)
        return probabilities, sums * (1 + 1e-6 * len(calls))

    def with_padding(*arguments):
        x, y, scale_and_bias, limits = arguments
        return right(x, y, scale_and_bias, limits.at[1].add(1))

    assert mosaic.mistake(right, 64, 64)[0] is None
    assert "different bits" in mosaic.mistake(different, 64, 64)[0]
    assert mosaic.mistake(with_padding, 64, 64)[0] is not None
