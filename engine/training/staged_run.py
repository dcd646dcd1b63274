"""A run in its entered folder, whose stages are carried out one by one, each from the end of the one before."""

import contextlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from diptych import backends
from diptych.core.data.examples.preprocessing import Preprocessing
from diptych.core.data.left_out_file import LeftOutFile
from diptych.core.data.records import Source
from diptych.core.files.atomic import replacing_folder
from diptych.core.placement import Placement
from diptych.core.report.verdict import best_text, training_warnings
from diptych.core.training import checkpoint
from diptych.core.training.card import Card, plain, resolve_card
from diptych.core.training.checkpoint import Checkpoint, CheckpointError
from diptych.core.training.handover import hand_over
from diptych.core.training.learner import Learner
from diptych.core.training.metrics import read_metrics
from diptych.core.training.recipe import Recipe
from diptych.core.training.results import Scores, read_results, write_results
from diptych.core.training.run_folder import RunFolder
from diptych.core.training.signals import StopSignals
from diptych.engine.datasets.data_set import Sources
from diptych.engine.embedding.embedded_pictures import EmbeddedPictures
from diptych.engine.run_card import write_model_card
from diptych.engine.training.build import build_learner
from diptych.engine.training.checks import check_config, ended_at
from diptych.engine.training.embedding_once import as_embedded, embed_once
from diptych.engine.training.held_out import what_warnings_ask
from diptych.engine.training.planned_stage import PlannedStage
from diptych.engine.training.results import Ending
from diptych.engine.training.run_plan import RunPlan
from diptych.engine.training.task import Judge, Task
from diptych.engine.training.terms.stage_term import Terms
from diptych.models.siglip.adapting import fit_weight

Results = dict[str, Scores]
"""What stages scored, by their names."""


@dataclass(frozen=True, kw_only=True)
class StagedRun:
    """Everything that the stages of a run have in common.

    Attributes:
        plan: what is to be done.
        folder: of the run, entered; each of several stages has one of its own in it.
        sources: the opened data.
        left_out: names what of them is not used; begun as soon as a stage goes on with them.
        stop: within its `leaving_at_once` all is carried out, but for steps and checkpoints.
    """

    plan: RunPlan
    folder: RunFolder
    sources: Sources
    left_out: LeftOutFile
    terms: Terms
    placement: Placement
    stop: StopSignals

    @property
    def recipe(self) -> Recipe:
        return self.plan.recipe

    @property
    def task(self) -> Task:
        return self.plan.task

    def carry_out(self, name: str) -> Results:
        """A stage, from wherever it stands to its end; returns what it scored, by its name.

        Raises:
            Stopped: a signal came; what is finished is saved.
        """
        planned = self.plan.planned[name]
        with self._entered(name) as folder:
            check_config(folder, self.recipe)
            if ended := finished(folder, planned, self.recipe.run.patience):
                self.left_out.restore()
                print(f"{folder.path} is finished.", flush=True)
                return ended
            learner, evaluation, card = self._trained(planned, folder)
            if not self.placement.writes:
                self.placement.wait()
                return {}
            with learner.ema.applied() if learner.ema else contextlib.nullcontext():
                self.task.save(learner.model, evaluation.preprocess, folder.path / "model")
                print(f"Model: {folder.path / 'model'}", flush=True)
                ending = ending_of(learner, planned)
                card = folder.add_to_card(**ending, data=self.plan.data_set.known(self.sources))
                results: Results = {name: {**ending, **evaluation.finish(learner, folder, card)}}
            if ending["best"]:
                print(f"Best model {best_text(ending['best'])}: {folder.best}", flush=True)
            write_results(folder.results, results)
            write_model_card(folder.path, card, results[name])
            self.placement.wait()
            return results

    def warnings_so_far(self) -> dict[str, list[str]]:
        """What the metrics of each stage that was begun say is wrong with it, by name."""
        found = {}
        for name, planned in self.plan.planned.items():
            rows = read_metrics(RunFolder(self.recipe.folder(name)).metrics)
            found[name] = training_warnings(rows, **what_warnings_ask(self.recipe, planned))
        return found

    def _entered(self, name: str) -> contextlib.AbstractContextManager[RunFolder]:
        alone = len(self.recipe.stages) == 1
        if alone:
            return contextlib.nullcontext(self.folder)
        return RunFolder(self.recipe.folder(name), self.placement)

    def _trained(self, planned: PlannedStage, folder: RunFolder) -> tuple[Learner, Judge, Card]:
        """A stage's learner after its last step, what evaluates it, and its card."""
        stage, parent = planned.stage, None
        if stage.after is not None and checkpoint.newest_state(folder.checkpoints) is None:
            parent = self._end_of(stage.after)
        preprocess = self.plan.examples[stage.name]
        examples: tuple[Preprocessing, Source] = preprocess, self.sources.train
        if planned.embeds_images:
            examples = as_embedded(self.recipe, preprocess, self.sources.train)
        with backends.at_rest(self.placement):
            learner = build_learner(self.recipe, planned, *examples, folder, self.terms, self.placement)
        judged = (self.recipe, planned, self.plan.data_set, self.sources, preprocess, learner.model)
        evaluation = self.task.judge(*judged, folder=folder.path, beginning=self._beginning, stop=self.stop)
        learner.turns = self.task.turns(planned, preprocess)
        learner.evaluate = evaluation.quick
        learner.keep = partial(keep_best, learner, preprocess, folder, self.task)
        with backends.at_rest(self.placement):
            start = learner.restore()
        self.left_out.begin(anew=not start and parent is None)
        if start and (ended := ended_at(folder, self.recipe)) is not None:
            print(f"{folder.path} ended after {ended:,} examples and goes on. {tail_text(learner, self.recipe)}")
        elif start:
            print(f"{folder.path} holds this stage up to batch {start} of {learner.total_steps}; going on from there.")
        elif parent is not None:
            print(f"Stage {stage.name}: {begin(learner, parent, planned)}", flush=True)
        elif self.plan.start.pretrained:
            print(f"{self.plan.start.name}: {self._begin_pretrained(learner, evaluation, planned)}", flush=True)
        elif len(self.recipe.stages) > 1:
            print(f"Stage {stage.name}: fresh weights", flush=True)
        card = folder.write_card(card_of(self.recipe, self.task, planned, learner), resume_step=start)
        if not learner.complete:
            if isinstance(examples[1], EmbeddedPictures):
                embed_once(self.recipe, examples[1], learner.model, preprocess, self.stop)
            learner.train(self.stop)
        return learner, evaluation, card

    def _begin_pretrained(self, learner: Learner, evaluation: Judge, planned: PlannedStage) -> str:
        """Gives the first stage the weights of a checkpoint; returns a sentence about it."""
        start, fresh = self.plan.start, self.task.anew(self.recipe, self.plan.start, planned.config)
        carried = begin(learner, start.weights(), planned, anew=fresh, may_leave=(*self.task.may_leave, *fresh))
        changed = self.task.settle(learner, self.recipe, start, evaluation)
        if learner.ema:
            with backends.at_rest(self.placement):
                learner.ema.restart()
        return f"{carried}; {changed}" if changed else carried

    @property
    def _beginning(self) -> Path:
        """The folder of the first stage, where it is kept what the checkpoint that a run began from finds and knows."""
        return self.recipe.folder(self.recipe.stages[0].name)

    def _end_of(self, name: str) -> Checkpoint:
        """The checkpoint of the very last step of a stage that has ended.

        Where that one is damaged, the steps since the newest good one are taken again, which gives the same bits.

        Raises:
            CheckpointError: where no checkpoint of the stage is good.
        """
        folder, last = self.recipe.folder(name) / "checkpoints", self.plan.planned[name].last
        try:
            return checkpoint.load_step(folder, last)
        except CheckpointError as error:
            print(f"{error} The end of stage {name} is carried out again.", flush=True)
        if checkpoint.restore_latest(folder) is None:
            raise CheckpointError(
                f"{folder} holds no checkpoint to go on from. Move {folder.parent} away to begin it "
                "again, or copy a checkpoint back into it."
            )
        with self._entered(name) as entered:
            self._trained(self.plan.planned[name], entered)
        return checkpoint.load_step(folder, last)


def finished(folder: RunFolder, planned: PlannedStage, patience: int | None = None) -> Results | None:
    """What a stage scored that has taken all of its examples, or has ended before for want of patience; None for any
    other.
    """
    if not folder.results.exists():  # written last of all
        return None
    results = read_results(folder.results, planned.stage.name)
    scored, examples = results[planned.stage.name], planned.examples_before + planned.examples
    in_vain = (scored.get("best") or {}).get("evaluations_since", 0)
    ended = scored.get("examples_seen", examples) >= examples or (patience is not None and in_vain >= patience)
    return results if ended else None


def ending_of(learner: Learner, planned: PlannedStage) -> Ending:
    """How a stage ended, for its card and its results."""
    best = learner.best
    return {
        "examples_seen": planned.examples_before + learner.examples_trained,
        "examples_planned": planned.examples_before + planned.examples,
        "stopped_early": learner.stopped_early,
        "best": None
        if best is None
        else {
            "by": best.by,
            "step": best.step,
            "value": best.value,
            "evaluations_since": best.evaluations_since,
            "examples": best.step * planned.batch_size,
        },
    }


def keep_best(learner: Learner, preprocess: Preprocessing, folder: RunFolder, task: Task) -> None:
    """Makes the model as it is the best of its run, in a folder that `from_preset` reads."""
    with replacing_folder(folder.best) as temporary:
        task.save(learner.model, preprocess, temporary)


def tail_text(learner: Learner, recipe: Recipe) -> str:
    """A sentence on the learning rate of a run that goes on to more examples."""
    optimization = recipe.optimization
    before = [row["learning_rate"] for row in read_metrics(learner.folder.metrics) if "learning_rate" in row]
    ended = f", which ended at {before[-1]:.3g}," if before else ""
    return (
        f"The learning rate{ended} is {learner.next_rate:.3g} from here on and falls to 0 by the "
        f"{optimization.schedule} of a run of {optimization.examples:,} examples, whose peak is "
        f"{learner.optimizer.base_learning_rate:.3g}."
    )


def begin(
    learner: Learner,
    saved: Checkpoint,
    planned: PlannedStage,
    *,
    anew: tuple[str, ...] = (),
    may_leave: tuple[str, ...] = (),
) -> str:
    """Gives a stage what the one before, or a checkpoint, holds; returns a sentence about it.

    Args:
        anew: beginnings of the paths of further weights that stay fresh.
        may_leave: beginnings of further saved weights that the stage may have no place for.

    Raises:
        ValueError: for weights that are fresh and locked, which say nothing and never will.
        CheckpointError: as `hand_over`.
    """
    towers = ("image/", "text/", "pair_logits/", "decoder/")
    left = {path.partition("/")[0] + "/" for path in saved.groups["weights"] if not path.startswith(towers)}
    if getattr(learner.model, "logit_bias", None) is None:
        left.add("pair_logits/logit_bias")
    with backends.at_rest(learner.placement):
        handover = hand_over(
            saved,
            learner.groups(),
            adapt=fit_weight,
            keep_optimizer=planned.stage.schedule is not None,
            may_leave=(*sorted(left), *may_leave),
            anew=(*planned.stage.fresh, *anew),
        )
    if held := sorted(set(handover.fresh).intersection(learner.model.held)):
        raise ValueError(
            f"Weights that begin fresh would never move, because they are locked: {', '.join(held[:3])}"
            f"{f' and {len(held) - 3} more' if len(held) > 3 else ''}. Leave out what locks them (--lock-image, "
            "--lock-text, --lock, --lora-rank), or begin with a checkpoint that has them."
        )
    return str(handover)


def card_of(recipe: Recipe, task: Task, planned: PlannedStage | None = None, learner: Learner | None = None) -> Card:
    """The card of a run, or of one of its stages with the model it resolved to."""
    card = resolve_card(
        recipe,
        seed=recipe.run.seed,
        backend=backends.name(),
        implementation=task.implementation(recipe) if planned else "none",
        parameters=learner.model.count_params() if learner else None,
        flops_per_step=learner.flops_per_step if learner else None,
        device=backends.device_name(),
        peak_flops_per_second=learner.peak_flops_per_second if learner else None,
    )
    if planned is None:
        return card
    parts = {name: plain(part) for name, part in planned.parts.items()}
    resolved = {"stage": plain(planned.stage), "model": plain(planned.config), "parts": parts}
    return card | resolved | {"embeds_images": planned.embeds_images}
