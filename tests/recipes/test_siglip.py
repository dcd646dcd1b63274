"""The SigLIP recipe as people use it: on their own pictures, interrupted, resumed, misused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from diptych.backends.selection import installed_backends
from diptych.core.placement import ALONE
from diptych.core.training.checkpoint import restore_latest
from diptych.core.training.ema import Ema
from diptych.core.training.faults import FAULT_POINTS, FAULT_STATUS, FAULT_VARIABLE
from diptych.core.training.metrics import read_metrics
from diptych.core.training.results import read_results
from diptych.core.training.run_folder import RunFolder
from diptych.core.training.stages import Stage
from diptych.engine.command_line import parse_recipe
from diptych.engine.training import evaluation, staged_run
from diptych.engine.training.run_plan import plan_run
from diptych.engine.training.terms import TERMS
from diptych.models import from_preset
from diptych.models.siglip.student import Student
from diptych.recipes import siglip
from tests.core.data.sources.content import add_member
from tests.core.files.remote.range_server import RangeServer, quick
from tests.marks import ABOVE_THE_BACKENDS
from tests.models.examples import TINY
from tests.recipes.golden import check_losses
from tests.recipes.interruptions import run_undisturbed, run_with_fault, run_with_kills
from tests.recipes.photos import write_photos

__all__ = ["quick"]

# DIPTYCH_KILLS=20 is the full number; a run of every test kills less often.
KILLS = int(os.environ.get("DIPTYCH_KILLS", "2"))
THOROUGH = bool(os.environ.get("DIPTYCH_THOROUGH"))
STEPS = 60
FEW_THREADS = {
    "OMP_NUM_THREADS": "1",
    "XLA_FLAGS": os.environ.get("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false"),
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return write_photos(tmp_path_factory.mktemp("data") / "photos", 64)


def command(photos: Path | str, run_dir: Path, *more: str) -> list[str]:
    small = "--model siglip_mu16_224 --image-size 32 --context-length 8 --batch-size 16 --val-fraction 0.2 --no-report"
    often = f"--examples {STEPS * 16} --checkpoint-every 4 --evaluate-every 320 --no-tensorboard --ema-decay 0.9"
    paths = ["--train-data", str(photos), "--run-dir", str(run_dir)]
    return [sys.executable, "-m", "recipes.siglip", *small.split(), *often.split(), *paths, *more]


def parsed(photos: Path, *flags: str):
    """The recipe that a command line means, resolved by its data, and how its pictures become arrays."""
    small = ["--train-data", str(photos), *flags]
    plan = plan_run(parse_recipe(siglip.siglip(), small, program="siglip", description=""), TERMS)
    return plan.recipe, plan.preprocess


@pytest.mark.parametrize(
    ("data", "flags", "augmented"),
    [("photos", [], False), ("photos", ["--augment"], True), ("photos", ["--augment", "True"], True),
     ("emoji", [], True), ("emoji", ["--no-augment"], False), ("scenes", [], False)],
)  # fmt: skip
def test_only_the_embedded_emoji_are_augmented_unless_asked(photos, data, flags, augmented):
    recipe, preprocess = parsed(photos if data == "photos" else Path(data), *flags)
    assert recipe.data.augment is augmented
    assert bool(preprocess.augmentation) is augmented


def test_the_resize_filter_is_chosen_by_a_flag_and_naflex_stays_antialiased(photos):
    assert parsed(photos)[1].resize_method == "bilinear_antialias"
    recipe, preprocess = parsed(photos, "--resize-method", "bilinear")
    assert preprocess.resize_method == "bilinear"
    stages = (
        Stage(name="square", schedule=(0.0, 0.5)),
        Stage(name="naflex", after="square", schedule=(0.5, 1.0), sequence_lengths=(4, 9), halve_from=9),
    )
    made = plan_run(replace(recipe, stages=stages), TERMS).examples
    assert {name: stage.resize_method for name, stage in made.items()} == {
        "square": "bilinear",
        "naflex": "bilinear_antialias",
    }


@pytest.fixture(scope="module")
def undisturbed(photos, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "undisturbed"
    return run_undisturbed(command(photos, run_dir), run_dir, environment=FEW_THREADS), run_dir


def test_the_losses_are_the_golden_ones(undisturbed):
    check_losses("siglip", undisturbed[1] / "metrics.jsonl")


def test_a_users_folder_is_learned_and_judged(undisturbed):
    outcome, run_dir = undisturbed
    losses = [row["loss"] for row in outcome.rows if "loss" in row]
    assert len(losses) == STEPS
    assert losses[-1] < 0.9 * losses[0]
    results = read_results(run_dir / "results.json")["training"]
    assert 0 <= results["retrieval"]["Held-out pairs"]["und"]["recall@5"] <= 1
    card = json.loads((run_dir / "card.json").read_text())
    assert card["backend"] == os.environ["KERAS_BACKEND"]
    assert card["implementation"] == {"torch": "blocked"}.get(os.environ["KERAS_BACKEND"], "xla")
    assert card["config"]["optimization"]["batch_size"] == 16
    assert card["flops_per_step"] > 0


@ABOVE_THE_BACKENDS
def test_shards_from_far_away_have_the_losses_of_those_that_are_here(photos, tmp_path, quick):
    (tmp_path / "set").mkdir()
    captions = map(json.loads, (photos / "captions.jsonl").read_text().splitlines())
    for number in range(2):
        with tarfile.open(tmp_path / "set" / f"{number}.tar", "w") as tar:
            for row in islice(captions, 32):
                add_member(tar, row["file_name"], (photos / row["file_name"]).read_bytes())
                add_member(tar, row["file_name"].replace("png", "txt"), row["caption"].encode())
    shards = {path.name: path.read_bytes() for path in (tmp_path / "set").iterdir()}
    with RangeServer(shards, faults=["500", "", "cut", "429", "", "stall", "whole"]) as server:
        for name, data in (("here", tmp_path / "set"), ("away", f"{server.address}/{{0..1}}.tar")):
            flags = command(
                data, tmp_path / name, "--examples", "80", "--evaluate-every", "80", "--checkpoint-every", "5"
            )
            assert siglip.main(flags[3:]) == 0
        assert not server.faults
    rows = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("here", "away")]
    losses = [[{key: row[key] for key in row if "loss" in key} for row in of_run] for of_run in rows]
    assert len(losses[0]) > 5
    assert losses[0] == losses[1]
    left_out = [(tmp_path / name / "left_out.jsonl").exists() for name in ("here", "away")]
    assert left_out == [False, False]


def test_the_model_that_is_left_is_the_moving_average(undisturbed):
    _, run_dir = undisturbed
    groups = restore_latest(run_dir / "checkpoints").groups
    found = weights_of(from_preset(run_dir / "model"))
    assert all(np.array_equal(found[path], value) for path, value in groups["ema"].items())
    assert not all(np.array_equal(found[path], groups["weights"][path]) for path in groups["ema"])


def test_the_end_is_judged_by_the_moving_average(tmp_path, monkeypatch):
    """And what is saved is the average, too; afterwards the weights are those of the last step again."""
    model, seen = Student(TINY), []
    average = Ema(model.trainable_variables, decay=0.5)
    for variable in average.averages:
        variable.assign(variable + 1.0)
    path = model.trainable_variables[0].path
    learner = SimpleNamespace(model=model, ema=average, best=None, stopped_early=False, examples_trained=0)
    judged = SimpleNamespace(preprocess=None, finish=lambda *_: seen.append(weights_of(model)[path]) or {})

    def save(model, preprocess, folder):
        folder.mkdir()
        seen.append(weights_of(model)[path])

    task = SimpleNamespace(save=save)
    monkeypatch.setattr(staged_run.StagedRun, "_trained", lambda *_: (learner, judged, {}))
    before = weights_of(model)[path]
    with RunFolder(tmp_path) as folder:
        planned = SimpleNamespace(examples_before=0, examples=0)
        known = SimpleNamespace(known=lambda sources: {})
        plan = SimpleNamespace(recipe=siglip.siglip(), planned={"training": planned}, task=task, data_set=known)
        others = dict.fromkeys(("sources", "left_out", "terms", "stop"))
        staged_run.StagedRun(plan=plan, folder=folder, placement=ALONE, **others).carry_out("training")
    np.testing.assert_allclose(seen, [before + 1.0] * 2, rtol=1e-6)
    np.testing.assert_array_equal(weights_of(model)[path], before)


def weights_of(model) -> dict[str, np.ndarray]:
    return {weight.path: np.array(keras.ops.convert_to_numpy(weight.value)) for weight in model.weights}


def test_killed_at_random_moments_a_run_ends_with_the_same_bits(photos, undisturbed, tmp_path):
    expected, _ = undisturbed
    outcome = run_with_kills(
        command(photos, tmp_path / "run"),
        tmp_path / "run",
        kills=KILLS,
        seed=1,
        undisturbed=expected,
        environment=FEW_THREADS,
    )
    assert outcome.kills > KILLS // 2
    assert outcome.by_step() == expected.by_step()
    assert outcome.weights_sha256 == expected.weights_sha256
    assert best_of(tmp_path / "run") == best_of(undisturbed[1])


def best_of(run_dir: Path) -> tuple[dict, bytes]:
    """What a run's results say of its best model, and the weights that are kept."""
    found = read_results(run_dir / "results.json")["training"]["best"]
    return found, (run_dir / "best" / "model.safetensors").read_bytes()


def test_the_best_model_is_kept_named_and_readable(undisturbed):
    """Where the last evaluation is the best, the model is the one at the end."""
    _, run_dir = undisturbed
    losses = {row["step"]: row.get("validation_loss", 9.0) for row in read_metrics(run_dir / "metrics.jsonl")}
    best, _ = best_of(run_dir)
    assert best == json.loads((run_dir / "card.json").read_text())["best"]
    assert losses[best["step"]] == best["value"] == min(losses.values())
    kept, end = (weights_of(from_preset(run_dir / name)) for name in ("best", "model"))
    assert all(np.array_equal(kept[path], end[path]) for path in end) == (best["step"] == STEPS)


@pytest.mark.parametrize("place", FAULT_POINTS if KILLS >= 20 else ["before_rename"])
def test_killed_inside_saving_a_run_ends_with_the_same_bits(photos, undisturbed, tmp_path, place):
    expected, _ = undisturbed
    run_dir = tmp_path / "run"
    outcome = run_with_fault(command(photos, run_dir), run_dir, fault=f"{place}:3", environment=FEW_THREADS)
    assert outcome.by_step() == expected.by_step()
    assert outcome.weights_sha256 == expected.weights_sha256


@ABOVE_THE_BACKENDS
def test_another_seed_gives_another_run(photos, undisturbed, tmp_path):
    """The comparison of bits is able to fail."""
    expected, _ = undisturbed
    outcome = run_undisturbed(
        command(photos, tmp_path / "run", "--seed", "1"), tmp_path / "run", environment=FEW_THREADS
    )
    assert outcome.weights_sha256 != expected.weights_sha256


@ABOVE_THE_BACKENDS
def test_a_finished_run_is_not_trained_again_and_other_options_are_refused(photos, undisturbed):
    outcome, run_dir = undisturbed
    again = subprocess.run(command(photos, run_dir), capture_output=True, text=True, env=os.environ | FEW_THREADS)
    assert again.returncode == 0
    assert "is finished" in again.stdout
    assert len(read_metrics(run_dir / "metrics.jsonl")) == len(outcome.rows)
    other = subprocess.run(command(photos, run_dir, "--learning-rate", "0.1"), capture_output=True, text=True)
    assert other.returncode == 1
    assert "--learning-rate: stored 0.001, given 0.1" in other.stderr
    assert "--run-dir" in other.stderr


@pytest.fixture
def finished(undisturbed, tmp_path) -> Path:
    """A copy of the undisturbed run."""
    return shutil.copytree(undisturbed[1], tmp_path / "finished")


def arguments(photos: Path, run_dir: Path, *more: str) -> list[str]:
    return command(photos, run_dir, *more)[3:]


@ABOVE_THE_BACKENDS
def test_a_finished_run_goes_on_to_more_examples(photos, undisturbed, finished, capsys):
    more = ["--examples", str((STEPS + 4) * 16), "--evaluate-every", "160", "--learning-rate", "2e-3"]
    assert siglip.main(arguments(photos, finished, *more)) == 0
    said = capsys.readouterr().out
    assert f"ended after {STEPS * 16:,} examples and goes on" in said
    rows = [row for row in read_metrics(finished / "metrics.jsonl") if "loss" in row]
    rates = [row["learning_rate"] for row in rows[STEPS - 1 :]]
    assert f"which ended at {rates[0]:.3g}, is {rates[1]:.3g} from here on and falls to 0" in said
    assert rates[0] < rates[1] > rates[2]
    losses = {row["step"]: row["loss"].hex() for row in rows}
    assert list(losses) == list(range(1, STEPS + 5))
    assert undisturbed[0].by_step().items() <= losses.items()
    assert read_results(finished / "results.json")["training"]["examples_seen"] == (STEPS + 4) * 16
    assert siglip.main(arguments(photos, finished, *more)) == 0
    assert "is finished" in capsys.readouterr().out
    assert siglip.main(arguments(photos, finished)) == 1
    assert f"--examples: stored {(STEPS + 4) * 16}, given {STEPS * 16}" in capsys.readouterr().err


@ABOVE_THE_BACKENDS
def test_a_run_that_goes_on_to_more_examples_is_not_finished_before(photos, finished, monkeypatch, capsys):
    """The results of the shorter run are still there when it is stopped on the way."""
    more = ["--examples", str((STEPS + 4) * 16)]
    with monkeypatch.context() as patched:
        patched.setattr(evaluation.Evaluation, "quick", lambda self: os.kill(os.getpid(), signal.SIGTERM) or {})
        assert siglip.main(arguments(photos, finished, *more, "--evaluate-every", "32")) == 143
    assert siglip.main(arguments(photos, finished, "--examples", "160000")) == 1
    assert f"--examples: stored {(STEPS + 4) * 16}, given 160000" in capsys.readouterr().err
    assert siglip.main(arguments(photos, finished, *more)) == 0
    assert f"up to batch {STEPS + 2} of {STEPS + 4}" in capsys.readouterr().out
    assert read_results(finished / "results.json")["training"]["examples_seen"] == (STEPS + 4) * 16


def test_a_run_knows_its_options_without_its_card(photos, finished, capsys):
    (finished / "card.json").unlink()
    assert siglip.main(arguments(photos, finished, "--learning-rate", "0.1")) == 1
    assert "--learning-rate: stored 0.001, given 0.1" in capsys.readouterr().err
    assert siglip.main(arguments(photos, finished)) == 0
    assert "is finished" in capsys.readouterr().out


DEVICES = {"jax": [((2, 2), (1, 1)), ((1, 1), (2, 1)), ((2, 1), (2, 2))], "tensorflow": [((2, 1), (1, 1))]}
if not THOROUGH:
    DEVICES = {"jax": DEVICES["jax"][:1]}


@pytest.mark.skipif(os.environ["KERAS_BACKEND"] not in DEVICES, reason="one device a process, or with DIPTYCH_THOROUGH")
@pytest.mark.parametrize("devices", DEVICES.get(os.environ["KERAS_BACKEND"], []))
def test_a_run_goes_on_with_another_number_of_devices(photos, undisturbed, tmp_path, devices):
    """Given are how many devices there are, and over how many the state is spread, before and after."""
    expected, run_dir = undisturbed[0].rows, tmp_path / "run"
    environment = {**FEW_THREADS, "XLA_FLAGS": f"{FEW_THREADS['XLA_FLAGS']} --xla_force_host_platform_device_count=2"}
    before, after = (
        command(photos, run_dir, "--data-parallel", str(count), "--fsdp", str(fsdp)) for count, fsdp in devices
    )
    broken = subprocess.run(
        before, capture_output=True, env=os.environ | environment | {FAULT_VARIABLE: "after_rename:7"}, check=False
    )
    assert broken.returncode == FAULT_STATUS
    found = run_undisturbed(after, run_dir, environment=environment).rows
    assert [row["step"] for row in found] == [row["step"] for row in expected]
    losses = [[row["loss"] for row in rows if "loss" in row] for rows in (found, expected)]
    np.testing.assert_allclose(*losses, rtol=3e-5)


@pytest.mark.skipif(not THOROUGH, reason="takes minutes: with DIPTYCH_THOROUGH")
def test_thousands_of_steps_take_no_more_memory_files_or_threads(photos, tmp_path):
    run_dir, measured = tmp_path / "run", []
    process = subprocess.Popen(
        command(photos, run_dir, "--examples", str(7_000 * 16), "--evaluate-every", "16000", "--workers", "1"),
        stdout=subprocess.DEVNULL,
        env=os.environ | FEW_THREADS,
    )
    try:
        for steps in (3_500, 6_500):  # the memory that evaluations and kept models take is settled after three
            while not (run_dir / "metrics.jsonl").exists() or read_steps(run_dir) < steps:
                assert process.poll() is None
                time.sleep(0.5)
            measured.append(taken(process.pid))
        assert process.wait(timeout=300) == 0
    finally:
        process.kill()
    (megabytes, *others), (megabytes_later, *others_later) = measured
    assert megabytes_later - megabytes < 4
    assert others_later == others
    assert read_steps(run_dir) == 7_000


def read_steps(run_dir: Path) -> int:
    return sum("loss" in row for row in read_metrics(run_dir / "metrics.jsonl"))


def taken(pid: int) -> tuple[float, int, int]:
    """Resident megabytes of a process, its open files and its threads, the fewest in a second: some are for a
    checkpoint alone.
    """
    found = []
    for _ in range(50):
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        files = len(os.listdir(f"/proc/{pid}/fd"))
        found.append((int(status["VmRSS"].split()[0]) / 1024, files, int(status["Threads"])))
        time.sleep(0.02)
    return tuple(min(values) for values in zip(*found, strict=True))


def test_a_signal_ends_the_last_evaluation_which_is_made_up_for(photos, undisturbed, finished, monkeypatch):
    def hangs(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(60)

    results = finished / "results.json"
    results.unlink()
    with monkeypatch.context() as patched:
        patched.setattr(evaluation.Evaluation, "finish", hangs)
        started = time.monotonic()
        assert siglip.main(arguments(photos, finished)) == 143
        assert time.monotonic() - started < 30
    assert not results.exists()
    assert siglip.main(arguments(photos, finished)) == 0
    retrieval = [read_results(run / "results.json")["training"]["retrieval"] for run in (finished, undisturbed[1])]
    assert retrieval[0] == retrieval[1]


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (["--batchsize", "3"], 2, "--batch-size"),
        (["--batch-size", "1"], 2, "one has no negatives"),
        (["--context-length", "0"], 2, "--context-length must be at least 2"),
        (["--retention", "pets/"], 2, "fresh weights know nothing"),
        (["--model", "siglip_b16_225"], 1, "siglip_b16_224"),
        (["--train-data", "no/such/folder"], 1, "no file or folder no/such/folder"),
        (["--accum-freq", "3"], 2, "--accum-freq must divide --batch-size"),
        (["--data-parallel", "3"], 2, "got 3 devices for 16 examples in 1 pieces"),
        (["--fsdp", "0"], 2, "--fsdp must be at least 1"),
        (["--fsdp", "2"], 1, "--fsdp 2 spreads"),
        (["--zero", "--optimizer", "lion"], 1, "--zero spreads"),
        (["--lock", "image"], 1, "matches no weight"),
        (["--loss-implementation", "pallas_gpu"], 1, "implementation='pallas_gpu' of sigmoid_loss cannot run here"),
        (["--batch-size", "512"], 1, "lower --batch-size"),
    ],
)
def test_a_wrong_flag_is_answered_with_what_to_do(photos, tmp_path, monkeypatch, capsys, flags, status, message):
    monkeypatch.setenv("COLUMNS", "200")
    _, _, _, *arguments = command(photos, tmp_path / "run", *flags)
    assert ended(siglip.main, arguments) == status
    printed = capsys.readouterr()
    assert message in printed.err + printed.out
    assert "Traceback" not in printed.err


def ended(main: Callable[[list[str]], int], arguments: list[str]) -> int:
    """The exit status of a recipe, whether it returns it or leaves with it."""
    try:
        return main(arguments)
    except SystemExit as left:
        return left.code


@ABOVE_THE_BACKENDS
def test_damaged_records_are_told_and_named_and_end_no_run(tmp_path, capsys):
    """One in the split, one when it is decoded; the limit counts each once; a dry run tells what it has met."""
    folder = write_photos(tmp_path / "photos", 60)
    with (folder / "captions.jsonl").open("ab") as file:
        file.write(b'{"file_name": "000.png", "caption": "\xff"}\n')
    (folder / "007.png").write_bytes((folder / "007.png").read_bytes()[:60])
    (folder / "late.bmp").write_bytes(b"")
    _, _, _, *arguments = command(folder, tmp_path / "run", "--examples", "64")
    assert siglip.main([*arguments, "--dry-run"]) == 0
    assert f"{folder}: 60 of 61 records read" in capsys.readouterr().out
    assert siglip.main([*arguments, "--dry-run", "--batch-size", "48"]) == 0
    said = capsys.readouterr().out
    assert "1 cannot be used: image_truncated 1" in said
    assert f"{folder}: 59 of 61 records read" in said
    assert siglip.main(arguments) == 0
    said = capsys.readouterr().out
    assert f"{folder}: 59 of 61 records read" in said
    named = [json.loads(line) for line in (tmp_path / "run" / "left_out.jsonl").read_text().splitlines()]
    assert {(line["what"], line["reason"], line["name"]) for line in named} == {
        ("skipped", "caption_not_json", "captions.jsonl:61"),
        ("skipped", "image_truncated", "007.png"),
        ("passed over", "no entry of the list above it names it", "late.bmp"),
    }
    assert all(line["name"] in said for line in named)
    assert siglip.main([*arguments, "--max-skipped", "0", "--run-dir", str(tmp_path / "strict")]) == 1
    assert "1 of 61 records" in (told := capsys.readouterr().err)
    assert "--max-skipped" in told
    assert "captions.jsonl:61" in (tmp_path / "strict" / "left_out.jsonl").read_text()
    before = (tmp_path / "run" / "left_out.jsonl").read_bytes()
    assert siglip.main(arguments) == 0
    assert f"{folder}: 59 of 61 records read" in capsys.readouterr().out
    (folder / "000.png").write_bytes((folder / "007.png").read_bytes())
    other = write_photos(tmp_path / "other", 20)
    (other / "late.bmp").write_bytes(b"")
    for refused in (["--train-data", str(other)], ["--max-skipped", "0"], ["--examples", "128"]):
        assert siglip.main([*arguments, *refused]) == 1
        assert (tmp_path / "run" / "left_out.jsonl").read_bytes() == before
    assert "data or its preprocessing changed" in capsys.readouterr().err


@ABOVE_THE_BACKENDS
def test_a_dry_run_prints_the_costs_and_leaves_nothing(photos, tmp_path):
    run_dir = tmp_path / "run"
    run = subprocess.run(
        [*command(photos, run_dir, "--dry-run"), "--model", "siglip2_so400m_patch14_384", "--image-size", "384"],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    for word in ("parameters", "steps", "PFLOP", "memory", "GiB"):
        assert word in run.stdout
    assert not run_dir.exists()


def test_without_a_chosen_backend_the_first_installed_is_used_and_named(photos, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    run = subprocess.run(
        command(photos, tmp_path / "run", "--dry-run"), capture_output=True, text=True, env=environment
    )
    assert run.returncode == 0, run.stderr
    assert f"KERAS_BACKEND is not set: using {installed_backends()[0]}" in run.stdout
    missing = environment | {"KERAS_BACKEND": "mxnet"}
    run = subprocess.run(command(photos, tmp_path / "run"), capture_output=True, text=True, env=missing)
    assert run.returncode == 2
    assert "expected one of jax, torch, tensorflow" in run.stderr
