"""SigLIP 2's recipe as people run it: planned, carried out in stages, stopped anywhere, misused."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from diptych.core.data.emoji import TOKENIZER_PATH
from diptych.core.data.loading.loader import Loader
from diptych.core.data.sampling import Place
from diptych.core.training import checkpoint
from diptych.core.training.metrics import read_metrics
from diptych.core.training.objectives import Seen
from diptych.core.training.results import read_results
from diptych.core.training.stages import Stage
from diptych.core.training.term_options import Captioning, Distillation
from diptych.engine.training import run as training
from diptych.engine.training.build import build_objective, build_student, build_teacher
from diptych.engine.training.checks import check_missing, missing_flags
from diptych.engine.training.costs import stage_parameters, training_flops
from diptych.engine.training.memory import activation_bytes, stage_memory
from diptych.engine.training.plan import plan_stages
from diptych.engine.training.run_plan import plan_run
from diptych.engine.training.start import start_of
from diptych.engine.training.terms import TERMS
from diptych.models import from_preset
from diptych.models.abstract import shapes_only
from diptych.models.presets import PRESETS
from diptych.models.siglip.adapting import to_naflex
from diptych.recipes import siglip2
from diptych.recipes.siglip2_ablation import Ablation, variants
from tests.marks import ABOVE_THE_BACKENDS
from tests.models.examples import forward
from tests.recipes.golden import check_losses
from tests.recipes.interruptions import run_with_kills_inside
from tests.recipes.photos import write_photos
from tests.recipes.small_stages import CUT, LENGTHS, STAGES, recipe
from tests.recipes.test_siglip import FEW_THREADS

COMPILES = os.environ["KERAS_BACKEND"] != "torch"
THOROUGH = bool(os.environ.get("DIPTYCH_THOROUGH"))
# After how many questions whether to stop each start of a run is stopped. Where every start compiles, a short run is
# stopped once, while a teacher teaches.
QUESTIONS = [(32,)] if COMPILES and not THOROUGH else [(14, 9, 8), (4, 12, 10)]


def go(folder: Path, *options: str, status: int = 0) -> str:
    command = [sys.executable, "-m", "tests.recipes.small_stages", str(folder), *options]
    environment = os.environ | FEW_THREADS | {"DIPTYCH_TRACEBACK": "1"}
    process = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert process.returncode == status, process.stdout[-2000:] + process.stderr[-4000:]
    return process.stdout


def end(folder: Path, stage: str) -> checkpoint.Checkpoint:
    found = checkpoint.restore_latest(folder / stage / "checkpoints")
    assert found is not None
    return found


def assert_same_bits(one: checkpoint.Checkpoint, other: checkpoint.Checkpoint) -> None:
    assert one.step == other.step
    assert one.groups.keys() == other.groups.keys()
    for group, arrays in one.groups.items():
        assert arrays.keys() == other.groups[group].keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, other.groups[group][name], err_msg=f"{group}: {name}")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stages") / "undisturbed"
    return folder, go(folder)


@pytest.mark.parametrize("stage", [stage.name for stage in STAGES])
def test_the_losses_are_the_golden_ones(undisturbed, stage):
    check_losses(f"siglip2 {stage}", undisturbed[0] / stage / "metrics.jsonl")


def test_every_kind_of_stage_is_carried_out(undisturbed):
    folder, printed = undisturbed
    results = read_results(folder / "results.json")
    assert list(results) == [stage.name for stage in STAGES]
    for stage in STAGES:
        rows = [row for row in read_metrics(folder / stage.name / "metrics.jsonl") if "loss" in row]
        assert rows, stage.name
        assert all(np.isfinite(row["loss"]) for row in rows)
        assert (folder / stage.name / "model" / "model.safetensors").exists()
        assert (folder / stage.name / "model" / "captioner.safetensors").exists() == ("captioning" in stage.losses)
    assert "fresh 15 (global_head, mask_token, patch_head)" in printed
    assert "resized 2 (image)" in printed
    assert end(folder, "larger").groups.keys() == {"weights", "optimizer", "ema", "teacher", "objective"}
    assert "teacher" not in end(folder, "naflex").groups
    curated = plan_stages(recipe(folder), _config(), TERMS)["curated"]
    assert (
        end(folder, "curated").groups["optimizer"]["iterations"] == curated.batches
    )  # a fork off the schedule begins afresh


def test_the_model_that_a_stage_leaves_is_the_moving_average(undisturbed):
    folder, _ = undisturbed
    groups = end(folder, "captioning").groups
    model = from_preset(folder / "captioning" / "model")
    found = {weight.path: keras.ops.convert_to_numpy(weight.value) for weight in model.weights}
    assert found.keys() < groups["ema"].keys()
    assert all(np.array_equal(value, groups["ema"][path]) for path, value in found.items())
    assert not all(np.array_equal(value, groups["weights"][path]) for path, value in found.items())


def test_naflex_is_compiled_once_a_length(undisturbed):
    folder, _ = undisturbed
    results = read_results(folder / "results.json")["naflex"]
    planned = plan_stages(recipe(folder), _config(), TERMS)["naflex"]
    met = {planned.naflex.length_of(0, 1, batch) for batch in range(planned.batches)}
    assert met == set(LENGTHS)
    assert results["compilations"] == (len(met) if COMPILES else 0)
    saved = end(folder, "naflex")
    halved = sum(planned.naflex.length_of(0, 1, batch) == 25 for batch in range(planned.batches))
    before = end(folder, "self_distillation").groups["optimizer"]["iterations"]
    assert saved.groups["optimizer"]["iterations"] - before == planned.batches + halved


def _config(whole=None):
    return plan_run(whole or recipe(Path("x")), TERMS).config


@pytest.mark.parametrize("questions", QUESTIONS)
def test_stopped_in_any_stage_it_ends_with_the_same_bits(undisturbed, tmp_path, questions):
    folder, _ = undisturbed
    for number in questions:
        printed = go(tmp_path, "--questions", str(number), status=130)
        assert "The same command goes on from there" in printed
    go(tmp_path)
    for stage in STAGES:
        assert_same_bits(end(folder, stage.name), end(tmp_path, stage.name))


@pytest.fixture(scope="module")
def cut(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cut") / "undisturbed"
    go(folder, "--tree", "cut")
    return folder


@ABOVE_THE_BACKENDS
def test_a_trunk_cut_into_stages_is_the_same_trunk(cut, tmp_path):
    go(tmp_path / "uncut", "--tree", "uncut")
    assert_same_bits(end(tmp_path / "uncut", ""), end(cut, "last"))


@pytest.mark.parametrize("seed", range(5 if THOROUGH else 1))
@ABOVE_THE_BACKENDS
def test_killed_inside_stages_it_ends_with_the_same_bits(cut, tmp_path, seed):
    names = [stage.name for stage in CUT][0 if THOROUGH else 1 :]
    assert killed_inside(tmp_path / "run", "cut", names, seed) >= len(names) - 1
    for stage in CUT:
        assert_same_bits(end(cut, stage.name), end(tmp_path / "run", stage.name))
        assert losses(cut / stage.name) == losses(tmp_path / "run" / stage.name)


@pytest.mark.skipif(not THOROUGH, reason="takes minutes: with DIPTYCH_THOROUGH")
@pytest.mark.parametrize("seed", range(2))
def test_killed_inside_each_kind_of_stage_it_ends_with_the_same_bits(undisturbed, tmp_path, seed):
    folder, _ = undisturbed
    names = [stage.name for stage in STAGES]
    assert killed_inside(tmp_path / "run", "all", names, seed) >= len(names) - 2
    for name in names:
        assert_same_bits(end(folder, name), end(tmp_path / "run", name))
        assert losses(folder / name) == losses(tmp_path / "run" / name)


def killed_inside(folder: Path, tree: str, names: list[str], seed: int) -> int:
    command = [sys.executable, "-m", "tests.recipes.small_stages", str(folder), "--tree", tree]
    folder.mkdir()
    return run_with_kills_inside(command, [folder / name for name in names], seed=seed, environment=FEW_THREADS)


def losses(folder: Path) -> list[tuple[int, str]]:
    return [(row["step"], row["loss"].hex()) for row in read_metrics(folder / "metrics.jsonl") if "loss" in row]


@ABOVE_THE_BACKENDS
def test_a_stage_never_begins_with_a_step_before_the_end(cut, tmp_path):
    """Of the finished stage's two checkpoints the newer one is damaged: its last steps are taken again."""
    folder = tmp_path / "run"
    shutil.copytree(cut, folder)
    shutil.rmtree(folder / "last")
    (folder / "results.json").unlink()
    flip_a_bit(folder / "second" / "checkpoints" / "step-00000014" / "weights.safetensors")
    printed = go(folder, "--tree", "cut")
    assert "The end of stage second is carried out again." in printed
    assert "up to batch 12 of 14" in printed
    for name in ("second", "last"):
        assert_same_bits(end(cut, name), end(folder, name))
        assert losses(cut / name) == losses(folder / name)


@ABOVE_THE_BACKENDS
def test_a_stage_without_a_good_checkpoint_is_an_error_and_no_other_beginning(cut, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(cut, folder)
    shutil.rmtree(folder / "last")
    for path in (folder / "second" / "checkpoints").glob("step-*/weights.safetensors"):
        flip_a_bit(path)
    for _ in range(2):  # the second start is not silent either
        assert training.run(recipe(folder, CUT)) == 1
        assert "none is good" in capsys.readouterr().err
        assert not list((folder / "last").glob("checkpoints/step-*"))


def flip_a_bit(path: Path) -> None:
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(bytes(damaged))


@ABOVE_THE_BACKENDS
def test_a_stages_options_are_known_without_any_card(cut, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(cut, folder)
    for card in folder.rglob("card.json"):
        card.unlink()
    shutil.rmtree(folder / "last")
    (folder / "results.json").unlink()
    whole = recipe(folder, CUT)
    changed = replace(whole, optimization=replace(whole.optimization, learning_rate=0.5))
    assert training.run(changed) == 1
    assert "--learning-rate: stored 0.001, given 0.5" in capsys.readouterr().err


@ABOVE_THE_BACKENDS
@pytest.mark.parametrize("size", siglip2.SIZES)
def test_the_papers_presets_are_planned(size, capsys):
    assert siglip2.main([size, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "batches of 32,768" in printed
    assert "976,562" in printed
    assert ("naflex" in printed) == size.endswith("naflex")
    assert ("curated" in printed) == (size in ("B/32", "B/16"))
    stages = {stage.name: stage for stage in siglip2.siglip2(size).stages}
    weight = {"B": 0.25, "L": 0.5, "So400m": 1.0, "g-opt": 0.5}[size.partition("/")[0]]
    losses = stages["self_distillation"].losses
    assert losses == {"contrastive": 1, "captioning": 1, "distillation": weight, "masked_prediction": weight / 4}
    assert siglip2.siglip2(size).optimization.warmup_examples == 20_000 * 32_768


@ABOVE_THE_BACKENDS
@pytest.mark.parametrize("size", siglip2.SIZES)
def test_what_every_stage_of_a_preset_needs_is_made_when_it_is_planned(size):
    """Views, masks, targets and lengths fit the towers of each stage; nothing is allocated for it."""
    whole = siglip2.siglip2(size)
    whole = replace(whole, data=replace(whole.data, train_data="emoji", tokenizer=TOKENIZER_PATH, augment=False))
    plan = plan_run(replace(whole, run=replace(whole.run, dry_run=True)), TERMS)
    planned, examples = plan.planned, plan.examples
    assert list(examples) == [stage.name for stage in whole.stages]
    for name, made in examples.items():
        stage = planned[name]
        assert bool(made.targets) == ("captioning" in stage.stage.losses), name
        assert bool(made.naflex) == bool(stage.stage.sequence_lengths), name
        assert bool(made.views) == ("distillation" in stage.stage.losses), name
        if made.views:
            assert made.views.grid**2 == stage.square.num_patches
            assert made.views.masked_count == stage.square.num_patches // 2
            assert made.views.local_size == round(stage.square.image_size * 3 / 8 / stage.square.patch_size) * (
                stage.square.patch_size
            )
    if size == "So400m/14":
        assert planned["patch14_384"].square.num_patches == 729
        assert examples["patch14_384"].views.masked_count == 364


def test_so400ms_grid_of_27_goes_through_views_masks_targets_and_teacher(tmp_path, monkeypatch):
    """384 px in patches of 14, with tiny towers: 729 patches, 364 of them hidden, and a border that nobody sees."""
    size, scenes = {"width": 16, "depth": 1, "mlp_dim": 32, "num_heads": 2}, PRESETS["scenes"]
    small = replace(scenes, vision=replace(scenes.vision, **size), text=replace(scenes.text, **size, embed_dim=16))
    monkeypatch.setitem(PRESETS, "scenes", small)
    whole = recipe(tmp_path, (Stage(name="fork", losses=STAGES[1].losses, patch_size=14, image_size=384),))
    plan = plan_run(replace(whole, optimization=replace(whole.optimization, batch_size=2)), TERMS)
    whole, data_set, planned, made = plan.recipe, plan.data_set, plan.planned["fork"], plan.examples["fork"]
    batches = Loader(data_set.sources(0).train, made, batch_size=2, seed=0, order=0).batches(0)
    batch = next(batches).arrays()
    batches.close()
    assert batch["masked_patches"].shape == (2, 364)
    assert (batch["global_view"].shape, batch["local_views"].shape) == ((2, 384, 384, 3), (2, 2, 140, 140, 3))
    student = build_student(whole, planned)
    teacher = build_teacher(whole, planned, student, TERMS)
    goal = build_objective(whole, planned, teacher, TERMS)

    def losses(batch):
        taught = goal.terms["masked_prediction"].taught_features(Seen(student, batch))
        assert taught["tokens"].shape == (2, 729, 16)
        embedded, own = goal.forward(student, batch)
        return goal.total(goal.losses(student, embedded) | own).logs

    found = {name: float(keras.ops.convert_to_numpy(value)) for name, value in forward(losses, batch).items()}
    assert found.keys() >= {f"{name}_loss" for name in STAGES[1].losses}
    assert all(np.isfinite(value) for value in found.values())


def test_a_stage_may_have_local_views_of_its_own(tmp_path):
    whole = recipe(tmp_path)
    stages = [replace(stage, local_size=20) if stage.name == "larger" else stage for stage in whole.stages]
    whole = replace(whole, stages=tuple(stages), distillation=replace(whole.distillation, local_size=9))
    examples = plan_run(whole, TERMS).examples
    sizes = {name: made.views and made.views.local_size for name, made in examples.items()}
    assert (sizes["self_distillation"], sizes["larger"]) == (9, 20)


def test_a_reference_reads_pictures_of_its_own_size(tmp_path):
    """It was never trained on the learner's; nothing is resized but the pictures."""
    plan = plan_run(recipe(tmp_path), TERMS)
    whole, data_set, made = plan.recipe, plan.data_set, plan.examples["curated"]
    assert (made.image_size, made.reference_size) == (32, 34)
    source = data_set.sources(0).train
    fields, _ = made(source.record(0), source, Place(seed=0, example=0, stage=2))
    assert fields["reference_image"].shape == (34, 34, 3)
    same = replace(whole, reference="self_distillation")
    assert plan_run(same, TERMS).examples["curated"].reference_size is None


def test_the_numbers_of_a_preset_are_those_of_the_models():
    whole = siglip2.siglip2("B/16")
    planned = plan_stages(whole, start_of(whole).config, TERMS)
    assert planned["captioning"].last == planned["self_distillation"].first == 976_562
    assert planned["trunk"].last == 1_220_703
    assert planned["trunk_curated"].loaded == 65_536
    parameters = stage_parameters(planned["self_distillation"], TERMS)
    assert (parameters["image"], parameters["text"]) == (92_930_304, 282_303_744)
    assert parameters["captioner"] == 450_160_384
    flops = training_flops(whole, planned["self_distillation"], TERMS)
    assert flops["contrastive"] == training_flops(whole, planned["captioning"], TERMS)["contrastive"]
    assert flops["distillation"] > 0 < flops["masked_prediction"]
    runs = [replace(whole, run=replace(whole.run, devices=devices)) for devices in (1, 2_048)]
    assert len({stage_memory(some, planned["trunk"], TERMS)["weights"] for some in runs}) == 1, "nothing is spread"
    one, many = (activation_bytes(some, planned["trunk"], TERMS) for some in runs)
    assert one > 1_000 * many


def test_the_counted_parameters_are_those_of_a_student(tmp_path):
    from diptych.models.abstract import shapes_only

    whole = recipe(tmp_path)
    for planned in plan_stages(whole, _config(), TERMS).values():
        with shapes_only():
            student = build_student(whole, planned)
        assert student.count_params() == stage_parameters(planned, TERMS)["total"], planned.stage.name


def test_the_ablations_runs_are_recipes():
    built = variants(Ablation(examples=2_000))
    assert {"sigmoid", "captioning", "self_supervised", "aspects", "curation"} < built.keys()
    for whole in built.values():
        plan_stages(whole, _config(whole), TERMS)


def test_a_preset_without_data_says_what_to_give(capsys):
    assert siglip2.main(["B/16"]) == 1
    assert "give --train-data" in capsys.readouterr().err


def test_a_dry_run_opens_the_data_and_names_the_one_flag_that_is_missing(tmp_path, capsys):
    assert siglip2.main(["B/16", "--dry-run"]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert "--train-data" in said
    assert "--tokenizer" in said
    photos = write_photos(tmp_path / "photos", 40)
    small = "--no-require-boxes --batch-size 16 --examples 64000 --warmup-examples 320 --val-fraction 0.2 --devices 4"
    given = ["--train-data", str(photos), *small.split()]
    assert siglip2.main(["L/16", "--dry-run", *given]) == 0
    printed = capsys.readouterr().out
    assert "Of the first 16 examples 16 can be used." in printed
    assert printed.splitlines()[-1].startswith("To carry it out, give --tokenizer")
    assert "--train-data" not in printed
    assert siglip2.main(["L/16", *given]) == 1
    said = capsys.readouterr().err
    assert "--tokenizer" in said
    assert "--train-data" not in said
    assert siglip2.main(["L/16", "--dry-run", "--train-data", str(tmp_path / "nothing")]) == 1
    assert "no file or folder" in capsys.readouterr().err


@pytest.mark.skipif(keras.config.backend() == "jax", reason="done on jax")
def test_what_several_devices_do_not_do_is_refused_before_anything_is_opened(capsys):
    assert siglip2.main(["B/16", "--data-parallel", "2"]) == 1
    message = {"torch": "On torch a process has one", "tensorflow": "Stage trunk_curated chooses its batches"}
    assert message[keras.config.backend()] in capsys.readouterr().err


def test_a_word_that_is_no_preset_is_refused(capsys):
    assert siglip2.main(["B/17"]) == 2
    assert "no preset 'B/17'. Did you mean B/16? There are tiny, finetune, B/32" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"only": ("nothing",)}, "There is no stage nothing; this run has captioning"),
        ({"stages": (Stage(name="a", local_size=7, losses=STAGES[1].losses),)}, "must hold a patch of 8 px at least"),
        ({"captioning": Captioning(target_length=3)}, "expected at least"),
        ({"distillation": Distillation(mask_ratio=0.01)}, "--mask-ratio 0.01 hides none of 16 patches"),
        ({"distillation": Distillation(local_views=0)}, "needs --local-views of at least 1, got 0"),
        ({"reference": "nobody"}, "Stage curated chooses its batches by a reference: 'nobody' is neither a folder"),
        ({"reference": "emoji_36_languages"}, "does not read this run's tokens"),
        ({"stages": (Stage(name="a", sequence_lengths=(2,)),)}, "at least 4"),
        ({"stages": (Stage(name="a", sequence_lengths=(9,), halve_from=9),), "batch": 7}, "multiple of 2"),
    ],
)
def test_stages_that_cannot_be_are_refused_in_a_sentence(changes, message, tmp_path, capsys):
    whole = recipe(tmp_path)
    if batch := changes.pop("batch", None):
        whole = replace(whole, optimization=replace(whole.optimization, batch_size=batch))
    assert training.run(replace(whole, **changes)) == 1
    assert message in capsys.readouterr().err


def fine_tuned(*only: str, pretrained: str | None = "emoji_36_languages"):
    whole = siglip2.finetune()
    small = replace(whole.distillation, head_hidden=32, head_bottleneck=16, head_outputs=64, local_views=2)
    return replace(
        whole,
        data=replace(whole.data, train_data="photos"),
        model=replace(whole.model, pretrained=pretrained),
        captioning=replace(whole.captioning, target_length=24),
        distillation=small,
        only=only or whole.only,
    )


def test_on_released_towers_decoder_and_heads_learn_first_and_then_all_together():
    made = plan_run(fine_tuned("naflex", "curated"), TERMS)
    assert list(made.planned) == ["heads", "together", "naflex", "curated"]
    assert list(plan_run(fine_tuned(), TERMS).planned) == ["heads", "together"]
    moving = {}
    for name in ("heads", "together"):
        with shapes_only():
            student = build_student(made.recipe, made.planned[name])
        moving[name] = {variable.path.partition("/")[0] for variable in student.trainable_variables}
    fresh = {"captioner", "global_head", "patch_head", "mask_token"}
    assert moving == {"heads": fresh, "together": fresh | {"image", "text", "pair_logits"}}
    optimization = made.recipe.optimization
    (share,) = optimization.learning_rate_multipliers.values()
    rates = {name: stage.stage.learning_rate for name, stage in made.planned.items() if stage.stage.schedule is None}
    assert [optimization.learning_rate * share, *(rate * share for rate in rates.values())] == pytest.approx([1e-5] * 3)
    assert made.planned["naflex"].naflex.lengths == (8, 16, 36, 49, 64)


def test_fresh_towers_are_not_held_still(tmp_path):
    asked = fine_tuned(pretrained=None)
    with pytest.raises(ValueError, match=r"give --pretrained \(a checkpoint, whose towers hold still at first\)"):
        check_missing(missing_flags(asked, start_of(asked)))


def test_a_naflex_checkpoint_is_tuned_without_the_losses_that_need_squares(tmp_path):
    to_naflex(from_preset("emoji_36_languages"), max_num_patches=16).save_to_preset(tmp_path, format="diptych")
    asked = fine_tuned(pretrained=str(tmp_path))
    made = plan_run(replace(asked, data=replace(asked.data, tokenizer=TOKENIZER_PATH)), TERMS)
    assert made.planned["heads"].stage.losses == {"captioning": 1.0}
    assert set(made.planned["together"].stage.losses) == {"contrastive", "captioning"}


@pytest.mark.skipif(not THOROUGH, reason="DIPTYCH_THOROUGH is not set: two stages are compiled for it")
def test_released_towers_hold_still_until_the_fresh_parts_have_learned(tmp_path, capsys):
    flags = "--examples 160 --batch-size 16 --val-fraction 0.3 --head-hidden 32 --head-bottleneck 16 --head-outputs 64"
    flags += " --local-views 2 --target-length 24 --no-tensorboard --no-report --pretrained emoji_36_languages"
    photos = write_photos(tmp_path / "photos", 48)
    own = ["--train-data", str(photos), "--run-dir", str(tmp_path / "run")]
    assert siglip2.main(["finetune", *flags.split(), *own]) == 0
    assert "has boxes: the decoder learns captions alone" in capsys.readouterr().out
    begun = {
        weight.path: keras.ops.convert_to_numpy(weight.value) for weight in from_preset("emoji_36_languages").weights
    }
    heads, together = (end(tmp_path / "run", stage).groups["weights"] for stage in ("heads", "together"))
    towers = [path for path in begun if not path.startswith("pair_logits/")]
    assert all(np.array_equal(heads[path], begun[path]) for path in towers)
    assert not any(np.array_equal(together[path], begun[path]) for path in towers if path.endswith("kernel"))
    assert (tmp_path / "run" / "together" / "model" / "captioner.safetensors").exists()
