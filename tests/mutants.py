"""Known faults, each made in a copy of the checkout to see that its test finds it: tests that cannot fail say nothing.

    python -m tests.mutants            all of them
    python -m tests.mutants NAME ...   these

Before that, the tests must pass on the code as it is. A fault that its test does not find is said to live; a test that does not come
to a verdict (it cannot be collected, or takes too long) makes its entry a broken one. Either is an exit status of 1.
"""

import ast
import difflib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import cache_from_source
from pathlib import Path
from typing import Literal

from tests.packaging import copy_tree
from tests.tree import ROOT

SECONDS = 300
"""The longest that the test of one fault may take; it takes seconds."""

Verdict = Literal["caught", "lives", "broken"]


@dataclass(frozen=True)
class Mutant:
    """A fault, and the test that finds it.

    name: words joined by hyphens.   file: the file that is changed, from the root.   old, new: what stands in it exactly once, and what takes
    its place.   test: a node id of pytest, which fails with the fault and passes without it.   backend: what Keras runs on meanwhile.
    """

    name: str
    file: str
    old: str
    new: str
    test: str
    backend: str = "torch"

    def wrong(self, root: Path = ROOT) -> list[str]:
        """What keeps this entry from being tried, each as a sentence."""
        if not (root / self.file).is_file():
            return [f"there is no file {self.file}"]
        text = (root / self.file).read_text(encoding="utf-8")
        count = text.count(self.old)
        if count != 1 or self.old == self.new:
            return [f"{self.file} holds the old text {count} times" if count != 1 else "old and new text are the same"]
        found = []
        try:
            compile(text.replace(self.old, self.new), self.file, "exec")
        except SyntaxError as error:
            found.append(f"{self.file} would be no Python: {error}")
        path, _, function = self.test.partition("::")
        if not (root / path).is_file() or function not in functions_of((root / path).read_text(encoding="utf-8")):
            found.append(f"there is no test {self.test}")
        return found


def functions_of(source: str) -> set[str]:
    """The functions of a module and its classes, as pytest writes them: `test_this`, `TestThese::test_that`."""
    body = ast.parse(source).body
    classes = [node for node in body if isinstance(node, ast.ClassDef)]
    within = {
        f"{node.name}::{part.name}" for node in classes for part in node.body if isinstance(part, ast.FunctionDef)
    }
    return {node.name for node in body if isinstance(node, ast.FunctionDef)} | within


# How a step on torch brings the averages after the weights.
FOLLOW = """\
                for follower in self._followers:
                    averages = [average.value for average in follower.averages]
                    torch._foreach_mul_(averages, follower.decay)
                    torch._foreach_add_(averages, [w.value for w in follower.weights], alpha=1 - follower.decay)
"""

# fmt: off
MUTANTS: tuple[Mutant, ...] = (
    # core/data
    Mutant("permutation-repeats-a-record", "core/data/sampling.py",
           "            outside = cells >= self.size\n",
           "            cells %= np.uint64(self.size)\n            outside = cells >= self.size\n",
           "tests/core/data/test_sampling.py::test_every_epoch_of_every_size_up_to_a_thousand_is_a_permutation"),
    Mutant("order-off-by-one", "core/data/sampling.py",
           "np.arange(batch * self.batch_size, (batch + 1) * self.batch_size, dtype=np.int64)",
           "np.arange(batch * self.batch_size + 1, (batch + 1) * self.batch_size + 1, dtype=np.int64)",
           "tests/core/data/test_sampling.py::test_the_order_is_the_same_for_ever"),
    Mutant("loader-resumes-at-the-beginning", "core/data/loader.py",
           "self.position = start\n        makers", "self.position = 0\n        makers",
           "tests/core/data/test_loader.py::test_resuming_anywhere_gives_the_tail"),
    Mutant("bad-examples-not-counted", "core/data/examples.py",
           "skipped.append((key, error.reason))", "pass",
           "tests/core/data/test_loader.py::test_bad_examples_are_replaced_and_counted_by_reason"),
    Mutant("text-not-lowered", "core/data/text.py",
           "            text = text.lower()\n", "            text = str(text)\n",
           "tests/core/data/test_text.py::test_case_is_folded_unless_told_otherwise"),
    Mutant("padding-on-the-left", "core/data/text.py",
           "        tokens[: len(ids)] = ids\n        tokens[len(ids)] = self.eos_id\n",
           "        tokens[context_length - len(ids) - 1 : -1] = ids\n        tokens[-1] = self.eos_id\n",
           "tests/core/data/test_text.py::test_truncation_keeps_end_of_text_last_and_padding_comes_after"),
    Mutant("end-of-text-cut-off", "core/data/text.py",
           "        tokens[len(ids)] = self.eos_id\n",
           "        tokens[len(ids)] = self.eos_id if len(ids) < context_length - 1 else ids[-1]\n",
           "tests/core/data/test_text.py::test_truncation_keeps_end_of_text_last_and_padding_comes_after"),
    Mutant("pixels-from-minus-one-to-three", "core/data/pixels.py",
           "    scale: float = 1 / 255\n", "    scale: float = 1 / 127.5\n",
           "tests/core/data/test_processor.py::test_pixels_are_resized_and_normalised"),
    Mutant("resize-without-antialias", "core/data/image.py",
           '    if method == "bilinear":\n', '    if method in ("bilinear", "bilinear_antialias"):\n',
           "tests/core/data/test_resizing.py::test_the_unrounded_kind_is_two_products_with_triangles"),
    Mutant("patches-column-by-column", "core/data/naflex.py",
           "patch_size, columns, patch_size, 3).swapaxes(1, 2)", "patch_size, columns, patch_size, 3).transpose(2, 0, 1, 3, 4)",
           "tests/core/data/test_naflex.py::test_a_patch_is_rows_then_columns_then_colours"),
    Mutant("prompt-counts-in-the-loss", "core/data/captioning.py",
           "weights[task, begin : end + 1] = 1", "weights[task, : end + 1] = 1",
           "tests/core/data/test_captioning.py::test_without_regions_only_the_caption_counts"),
    # core/losses
    Mutant("dropped-negatives", "core/losses/contrastive.py",
           "ops.softplus(ops.where(is_pair, -logits, logits))", "ops.where(is_pair, ops.softplus(-logits), 0.0)",
           "tests/models/test_forward.py::test_the_loss_that_fit_minimises_is_the_pairwise_sigmoid_loss"),
    Mutant("flipped-labels", "core/losses/contrastive.py",
           "ops.where(is_pair, -logits, logits)", "ops.where(is_pair, logits, -logits)",
           "tests/models/test_forward.py::test_the_loss_that_fit_minimises_is_the_pairwise_sigmoid_loss"),
    Mutant("softmax-in-one-direction", "core/losses/contrastive.py",
           "return 0.5 * (ops.mean(image_to_text) + ops.mean(text_to_image))", "return ops.mean(image_to_text)",
           "tests/agreement/test_models.py::test_float32_agrees"),
    Mutant("teacher-not-centred", "core/losses/distillation.py",
           "ops.softmax((z - c) / temperature, axis=-1)", "ops.softmax(z / temperature, axis=-1)",
           "tests/core/losses/test_distillation.py::test_the_loss_is_least_where_the_student_agrees_and_then_the_teachers_entropy"),
    Mutant("temperatures-exchanged", "core/losses/distillation.py",
           "centre, temperature=teacher_temperature)\n    return cross_entropy(student_logits, probabilities, temperature=student_temperature)",
           "centre, temperature=student_temperature)\n    return cross_entropy(student_logits, probabilities, temperature=teacher_temperature)",
           "tests/core/losses/test_distillation.py::test_the_loss_is_least_where_the_student_agrees_and_then_the_teachers_entropy"),
    Mutant("centre-not-updated", "core/losses/distillation.py",
           "return momentum * centre + (1.0 - momentum) * teacher_mean", "return centre",
           "tests/core/losses/test_distillation.py::test_the_centre_tends_to_the_mean_and_stays_there"),
    Mutant("gradient-reaches-the-teacher", "core/losses/distillation.py",
           "z, c = (ops.stop_gradient(_float32(x)) for x in (teacher_logits, centre))",
           "z, c = (_float32(x) for x in (teacher_logits, centre))",
           "tests/core/losses/test_distillation.py::test_only_the_student_learns"),
    # core/training
    Mutant("momentum-by-the-wrong-ratio", "core/training/teacher.py",
           "REFERENCE_MOMENTUM ** (batch_size / REFERENCE_BATCH)", "REFERENCE_MOMENTUM ** (REFERENCE_BATCH / batch_size)",
           "tests/core/training/test_teacher.py::test_the_momentum_has_one_half_life_in_examples"),
    Mutant("frozen-weight-moves", "core/training/patterns.py",
           "        variable.trainable = False\n", "        variable.trainable = True\n",
           "tests/backends/test_step.py::test_frozen_weights_do_not_move_and_the_others_do"),
    Mutant("biases-decay", "core/training/optimizers.py",
           'KERNELS = (".*kernel",)', 'KERNELS = (".*",)',
           "tests/core/training/test_optimizers.py::test_decay_follows_the_schedule_and_not_the_learning_rate"),
    Mutant("no-warm-up", "core/training/schedules.py",
           "        if self.warmup_examples:\n", "        if self.warmup_examples < 0:\n",
           "tests/core/training/test_schedules.py::test_the_first_update_of_a_warm_up_has_rate_zero_and_the_end_too"),
    Mutant("pixels-from-zero-to-one", "core/training/objectives.py",
           " / 127.5 - 1.0", " / 255.0",
           "tests/core/training/test_curated_objective.py::test_it_draws_by_both_models_own_scales_what_the_oracle_draws"),
    Mutant("chosen-by-the-learner-alone", "core/training/curation.py",
           '"learnability": (1.0, -1.0)', '"learnability": (1.0, 0.0)',
           "tests/core/training/test_curation.py::test_what_can_be_learnt_is_found_and_what_is_known_or_noise_is_left"),
    Mutant("chosen-twice", "core/training/curation.py",
           "ops.full((chunk_size,), -math.inf", "ops.full((chunk_size,), 0.0",
           "tests/core/training/test_curation.py::test_all_are_drawn_once_where_size_is_all"),
    Mutant("fresh-weights-keep-old-slots", "core/training/handover.py",
           " or value.size != math.prod(variable.shape) or name.startswith(anew):", " or value.size != math.prod(variable.shape):",
           "tests/core/training/test_handover.py::test_parts_that_begin_anew_keep_their_initial_values_and_have_fresh_slots"),
    Mutant("wrong-batch-on-resume", "core/training/learner.py",
           "batches = self.loader.batches(start)", "batches = self.loader.batches(start + bool(start))",
           "tests/core/training/test_learner.py::test_a_run_that_stops_and_resumes_is_the_run_that_does_not"),
    Mutant("slots-not-restored", "core/training/learner.py",
           "        for group, variables in self.groups().items():\n            _assign",
           '        for group, variables in self.groups().items():\n            if group == "optimizer":\n                continue\n            _assign',
           "tests/recipes/test_siglip.py::test_killed_inside_saving_a_run_ends_with_the_same_bits"),
    Mutant("skipped-examples-not-counted", "core/training/learner.py",
           "for _, reason in batch.skipped:", "for _, reason in ():",
           "tests/core/training/test_learner.py::test_every_batch_is_trained_on_once_and_every_step_has_its_row"),
    Mutant("rows-not-cut-on-resume", "core/training/metrics.py",
           'if row is not None and row["step"] <= step:', "if row is not None:",
           "tests/core/training/test_metrics.py::test_a_resume_removes_exactly_the_later_rows"),
    Mutant("checksum-not-verified", "core/training/checkpoint.py",
           '    if digest != expected["sha256"]:', "    if not digest:",
           "tests/core/training/test_checkpoint_damage.py::test_every_changed_byte_is_found_and_the_checkpoint_before_is_used"),
    Mutant("checkpoint-not-flushed", "core/training/checkpoint.py",
           "            flush_to_disk(path)\n", "            pass\n",
           "tests/core/training/test_checkpoint_disk.py::test_a_saved_checkpoint_survives_a_loss_of_power"),
    Mutant("name-of-the-checkpoint-not-flushed", "core/training/checkpoint.py",
           "        flush_to_disk(folder)\n    except", "    except",
           "tests/core/training/test_checkpoint_disk.py::test_a_saved_checkpoint_survives_a_loss_of_power"),
    # core/evaluation
    Mutant("recall-off-by-one", "core/evaluation/retrieval.py",
           "np.mean(ranks <= k)", "np.mean(ranks < k)",
           "tests/core/evaluation/test_retrieval.py::test_perfect_embeddings_reach_one_and_opposite_ones_zero"),
    Mutant("ties-favour-the-model", "core/evaluation/retrieval.py",
           "        threshold -= _rounding(query, gallery)\n", "        threshold += _rounding(query, gallery)\n",
           "tests/core/evaluation/test_retrieval.py::test_a_collapsed_model_gets_nothing"),
    Mutant("nan-scores-count-as-low", "core/evaluation/retrieval.py",
           "scores.shape[1] - below", "np.count_nonzero(scores >= threshold[first:last, None], axis=1)",
           "tests/core/evaluation/test_retrieval.py::test_a_single_nan_item_counts_before_the_right_one"),
    Mutant("mean-prompt-not-normalised", "core/evaluation/zero_shot.py",
           "return _normalise(_normalise(prompts).mean(axis=1))", "return _normalise(prompts).mean(axis=1)",
           "tests/core/evaluation/test_zero_shot.py::test_a_class_embedding_is_the_normalised_mean_of_normalised_prompts"),
    Mutant("found-rows-off-by-one", "core/evaluation/nearest.py",
           "column + start])", "column + start + (start > 0)])",
           "tests/core/evaluation/test_nearest.py::test_real_vectors_are_found_in_order"),
    # core/weights
    Mutant("header-of-any-size", "core/weights/safetensors.py",
           "        if length > MAX_HEADER_BYTES:\n", "        if length > 1 << 63:\n",
           "tests/core/weights/test_safetensors.py::test_a_hostile_file_is_refused"),
    Mutant("tensors-overlap", "core/weights/safetensors.py",
           "        if start != end:\n", "        if start > end:\n",
           "tests/core/weights/test_safetensors.py::test_a_hostile_file_is_refused"),
    Mutant("shard-elsewhere", "core/weights/shards.py",
           r'r"\w[\w.-]*\.(safetensors|weights\.h5)"', r'r".*\.(safetensors|weights\.h5)"',
           "tests/core/weights/test_open.py::test_a_list_cannot_name_files_elsewhere"),
    Mutant("repository-elsewhere", "core/weights/hub.py",
           r'r"[\w-][\w.-]*/[\w-][\w.-]*"', 'r".*/.*"',
           "tests/core/weights/test_hub.py::test_a_malformed_name_is_refused"),
    Mutant("pickle-opened", "core/weights/open.py",
           'or (start[:1] == b"\\x80" and', 'or (start[:1] == b"\\x81" and',
           "tests/core/weights/test_open.py::test_pickles_are_refused_unread"),
    Mutant("file-not-flushed", "core/weights/atomic.py",
           "            file.flush()\n            os.fsync(file.fileno())\n", "            file.flush()\n",
           "tests/core/weights/test_safetensors.py::test_what_is_written_survives_a_loss_of_power"),
    Mutant("half-a-file-under-its-name", "core/weights/atomic.py",
           '    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")\n', "    temporary = path\n",
           "tests/core/weights/test_safetensors.py::test_a_write_that_fails_changes_nothing"),
    Mutant("positions-without-antialias", "core/weights/resizing.py",
           "width = max(scale, 1.0) if antialias else 1.0", "width = 1.0",
           "tests/core/weights/test_resizing.py::test_shrinking_to_half_weighs_four_samples_by_a_triangle"),
    Mutant("positions-transposed", "core/weights/resizing.py",
           '"ia,jb,abw->ijw"', '"ia,jb,baw->ijw"',
           "tests/models/test_adapting.py::test_a_square_model_of_another_grid_computes_what_naflex_does"),
    # models
    Mutant("decoder-sees-ahead", "models/captioner.py",
           "(places[:, None] >= places[None, :])", "(places[:, None] >= places[None, :] - 1)",
           "tests/models/test_captioner.py::test_a_causal_token_is_predicted_from_those_before_it_and_a_parallel_one_from_none"),
    Mutant("parallel-places-apart", "models/captioner.py",
           "            token_mask = ops.logical_or(token_mask, ops.reshape(parallel, (-1, 1, 1, 1)))\n", "",
           "tests/models/test_captioner.py::test_places_of_a_parallel_sequence_see_each_other"),
    Mutant("padding-attended-to", "models/layers.py",
           "mask = None if key_mask is None else key_mask[:, None, None, :]", "mask = None",
           "tests/models/test_naflex.py::test_what_stands_in_padding_changes_nothing"),
    Mutant("naflex-positions-without-antialias", "models/naflex.py",
           "ops.maximum(scale, 1.0)", "ops.ones_like(scale)",
           "tests/models/test_naflex.py::test_positions_of_grids_that_are_named"),
    Mutant("patches-transposed", "models/embeddings.py",
           "ops.transpose(x, (0, 1, 3, 2, 4, 5))", "ops.transpose(x, (0, 3, 1, 2, 4, 5))",
           "tests/models/test_forward.py::test_patches_are_a_convolution_without_padding"),
    Mutant("exact-gelu", "models/layers.py",
           "partial(ops.gelu, approximate=True)", "partial(ops.gelu, approximate=False)",
           "tests/models/test_forward.py::test_the_mlp_uses_the_tanh_form_of_gelu"),
    Mutant("another-epsilon", "models/layers.py",
           "LAYER_NORM_EPSILON = 1e-6", "LAYER_NORM_EPSILON = 1e-5",
           "tests/models/test_forward.py::test_layer_norm_has_big_visions_epsilon"),
    Mutant("clip-sees-ahead", "models/clip.py",
           "                causal=True,\n", "                causal=False,\n",
           "tests/models/test_clip.py::test_a_token_sees_only_those_before_it"),
    Mutant("texts-not-normalised", "models/heads.py",
           "return normalize(image), normalize(text)", 'return normalize(image), ops.cast(text, "float32")',
           "tests/models/test_forward.py::test_embeddings_have_unit_length_and_follow_the_towers"),
    Mutant("transformers-query-for-key", "models/weights/transformers.py",
           'for part in ("q", "k", "v")]', 'for part in ("k", "q", "v")]',
           "tests/models/test_migration.py::test_every_line_of_transformers_runs_and_means_the_same"),
    Mutant("transformers-scale-for-bias", "models/weights/transformers.py",
           'f"{theirs}.weight"), Rule(f"{ours}/bias", f"{theirs}.bias")]\n\n\ndef _linear',
           'f"{theirs}.bias"), Rule(f"{ours}/bias", f"{theirs}.weight")]\n\n\ndef _linear',
           "tests/models/test_migration.py::test_every_line_of_transformers_runs_and_means_the_same"),
    Mutant("open-clip-norms-exchanged", "models/weights/open_clip.py",
           '("ln_1", "attn.in_proj_", "attn.out_proj", "ln_2",', '("ln_2", "attn.in_proj_", "attn.out_proj", "ln_1",',
           "tests/models/test_checkpoints.py::test_open_clip_and_timm_checkpoints_compute_what_they_do_there"),
    Mutant("big-vision-layers-reversed", "models/weights/big_vision.py",
           "for block in blocks), strict=True)", "for block in reversed(blocks)), strict=True)",
           "tests/models/test_checkpoints.py::test_big_vision_files_are_read_with_and_without_prefix_and_scan"),
    # backends/jax
    Mutant("jax-scale-without-gradient", "backends/jax/sigmoid_loss/loss.py",
           "dt = (swept.sums.cosine + jnp.sum(g * cosine)) / denominator", "dt = jnp.zeros_like(t)",
           "tests/backends/test_sigmoid_loss.py::test_the_explicit_gradients_are_those_of_the_oracle", "jax"),
    Mutant("jax-bias-gradient-of-negatives-alone", "backends/jax/sigmoid_loss/loss.py",
           "db = (swept.sums.probability + jnp.sum(g)) / denominator", "db = swept.sums.probability / denominator",
           "tests/backends/test_sigmoid_loss.py::test_the_explicit_gradients_are_those_of_the_oracle", "jax"),
    Mutant("jax-padding-counts", "backends/jax/sigmoid_loss/sweep.py",
           "(i < limits[0]) &", "(i <= limits[0]) &",
           "tests/backends/test_sigmoid_loss.py::test_the_explicit_gradients_are_those_of_the_oracle", "jax"),
    Mutant("jax-average-before-the-update", "backends/jax/step.py",
           "(1 - decay) * weights[place]", "(1 - decay) * state[0][place]",
           "tests/backends/test_step.py::test_the_average_follows_the_updated_weights", "jax"),
    Mutant("jax-nan-passes", "backends/jax/step.py",
           "finite = jnp.isfinite(loss) & jnp.isfinite(norm)", "finite = jnp.isfinite(loss) | True",
           "tests/backends/test_step.py::test_a_step_that_is_not_finite_changes_nothing", "jax"),
    Mutant("jax-gradients-not-clipped", "backends/jax/step.py",
           "if self._clip_norm is not None:", "if self._clip_norm is None and norm is None:",
           "tests/backends/test_step.py::test_gradients_are_clipped_by_their_global_norm", "jax"),
    # backends/torch
    Mutant("torch-dropped-negatives", "backends/torch/sigmoid_loss/sweep.py",
           "            sums[0] += F.softplus(z).sum()\n", "",
           "tests/backends/test_sigmoid_loss.py::test_every_implementation_computes_the_definition"),
    Mutant("torch-scale-without-gradient", "backends/torch/sigmoid_loss/sweep.py",
           "sums[1] += torch.vdot(x_block.flatten(), image[rows].flatten())", "pass",
           "tests/backends/test_sigmoid_loss.py::test_the_explicit_gradients_are_those_of_the_oracle"),
    Mutant("torch-bias-gradient-of-the-wrong-sign", "backends/torch/sigmoid_loss/loss.py",
           "probability += g.sum(dtype=torch.float64)", "probability -= g.sum(dtype=torch.float64)",
           "tests/backends/test_sigmoid_loss.py::test_the_explicit_gradients_are_those_of_the_oracle"),
    Mutant("torch-average-before-the-update", "backends/torch/step.py",
           "                self._apply(gradients)\n" + FOLLOW, FOLLOW + "                self._apply(gradients)\n",
           "tests/backends/test_step.py::test_the_average_follows_the_updated_weights"),
    Mutant("torch-decay-exchanged", "backends/torch/step.py",
           FOLLOW, FOLLOW.replace("averages, follower.decay", "averages, 1 - follower.decay").replace("alpha=1 - ", "alpha="),
           "tests/backends/test_step.py::test_the_average_follows_the_updated_weights"),
    Mutant("torch-centre-kept", "backends/torch/step.py",
           "                    variable.assign(value)\n", "                    variable.assign(variable)\n",
           "tests/core/training/test_joint_objective.py::test_the_centre_takes_in_the_teachers_mean_after_it_was_used"),
    Mutant("torch-nan-passes", "backends/torch/step.py",
           "finite = torch.isfinite(loss) & torch.isfinite(norm)", "finite = torch.isfinite(loss) | True",
           "tests/backends/test_step.py::test_a_step_that_is_not_finite_changes_nothing"),
    Mutant("torch-gradients-not-clipped", "backends/torch/step.py",
           "(self._clip_norm / norm).clamp(max=1.0)", "1.0",
           "tests/backends/test_step.py::test_gradients_are_clipped_by_their_global_norm"),
    Mutant("torch-direct-gradient-dropped", "backends/torch/step.py",
           "list(direct[len(parts) :])", "[torch.zeros_like(g) for g in direct[len(parts) :]]",
           "tests/backends/test_step.py::test_pieces_contrast_every_pair_of_the_batch"),
    Mutant("torch-cotangent-ignored", "backends/torch/sigmoid_loss/loss.py",
           "[(cotangent * g).to(x.dtype)", "[g.to(x.dtype)",
           "tests/backends/torch/test_operator.py::test_the_compiler_takes_it_as_one_graph"),
    # backends/tensorflow
    Mutant("tensorflow-scale-without-gradient", "backends/tensorflow/sigmoid_loss/loss.py",
           "return SigmoidLossGradients(loss, image, text, dt, db)", "return SigmoidLossGradients(loss, image, text, 0.0 * dt, db)",
           "tests/backends/tensorflow/test_sigmoid_loss.py::test_value_and_gradients_are_the_definitions", "tensorflow"),
    Mutant("tensorflow-bias-gradient", "backends/tensorflow/sigmoid_loss/loss.py",
           "tf.where(is_pair, -probability, 0.0)", "tf.where(is_pair, probability, 0.0)",
           "tests/backends/test_sigmoid_loss.py::test_the_explicit_gradients_are_those_of_the_oracle", "tensorflow"),
    Mutant("tensorflow-nan-passes", "backends/tensorflow/step.py",
           "tf.cond(finite, advance, lambda: tf.constant(0))", "advance()",
           "tests/backends/test_step.py::test_a_step_that_is_not_finite_changes_nothing", "tensorflow"),
    Mutant("tensorflow-average-not-updated", "backends/tensorflow/step.py",
           "average.value.assign(follower.decay * average.value + (1 - follower.decay) * weight.value)", "pass",
           "tests/backends/test_step.py::test_the_average_follows_the_updated_weights", "tensorflow"),
    # recipes
    Mutant("embedding-repeats-an-image", "recipes/index_writer.py",
           "items[-1].number + 1],", "items[-1].number],",
           "tests/recipes/test_embed.py::test_after_a_crash_nothing_committed_is_embedded_again"),
    Mutant("found-without-an-embedding", "recipes/search.py",
           "allowed=usable)", "allowed=None)",
           "tests/recipes/test_search.py::test_all_are_found_but_those_without_an_embedding"),
    Mutant("exported-without-normalising", "models/two_towers.py",
           'Normalize(name="normalize")(pooled(inputs))', "pooled(inputs)",
           "tests/recipes/test_export.py::TestOnnx::test_graphs_give_the_models_embeddings_for_batches_of_any_size"),
    Mutant("exported-nan-passes", "recipes/export_check.py",
           "    if not greatest <= LARGEST_DIFFERENCE:", "    if greatest > LARGEST_DIFFERENCE:",
           "tests/recipes/test_export.py::TestCheck::test_wrong_embeddings_are_refused"),
)
# fmt: on


def verdict(status: int | None) -> Verdict:
    """What pytest's exit status says of a fault; None is that of a run that was ended because it took too long."""
    return "lives" if status == 0 else "caught" if status == 1 else "broken"


class Bench:
    """A copy of the checkout, in which tests run in processes of their own."""

    def __init__(self, tree: Path):
        self.tree = tree.resolve()
        code, place = self._run([sys.executable, "-c", "import diptych.core; print(diptych.core.__file__)"], "torch")
        if code != 0 or not place.strip().startswith(str(self.tree)):
            raise RuntimeError(f"{self.tree} is not what is imported there:\n{place}")

    def passes(self, tests: Sequence[str], backend: str) -> str:
        """Runs tests on the code as it is; returns what they print where one does not pass, else nothing."""
        status, printed = self._pytest(tests, backend, seconds=SECONDS + 30 * len(tests))
        return "" if status == 0 else f"{printed[-6000:]}\npytest ended with status {status} on {backend}"

    def judge(self, mutant: Mutant) -> tuple[Verdict, str]:
        """Makes a fault, runs its test and takes the fault back; -> the verdict, and what was printed."""
        path = self.tree / mutant.file
        text = path.read_text(encoding="utf-8")
        try:
            _write(path, text.replace(mutant.old, mutant.new))
            status, printed = self._pytest([mutant.test], mutant.backend, "-x", seconds=SECONDS)
        finally:
            _write(path, text)
        return verdict(status), printed

    def _pytest(self, tests: Sequence[str], backend: str, *options: str, seconds: int) -> tuple[int | None, str]:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", *options, *tests]
        return self._run(command, backend, seconds=seconds)

    def _run(self, command: list[str], backend: str, seconds: int = 60) -> tuple[int | None, str]:
        """-> the exit status, None where it took too long, and what was printed; nothing that it started is left behind."""
        own = {"KERAS_BACKEND": backend, "PYTHONPATH": str(self.tree), "TF_CPP_MIN_LOG_LEVEL": "2"}
        process = subprocess.Popen(
            command, cwd=self.tree, env=os.environ | own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace", start_new_session=True,
        )  # fmt: skip
        try:
            printed, _ = process.communicate(timeout=seconds)
        except BaseException as error:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            printed, _ = process.communicate()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return None, f"{printed}\nended after {seconds} s"
        return process.returncode, printed


def _write(path: Path, text: str) -> None:
    """Writes source, and forgets what was compiled of it: two texts of one length within a second look alike to Python."""
    path.write_text(text, encoding="utf-8")
    Path(cache_from_source(str(path))).unlink(missing_ok=True)


def chosen(names: Sequence[str]) -> list[Mutant]:
    """The mutants of these names, all where there are none. Raises SystemExit for a name that is not in the table."""
    by_name = {mutant.name: mutant for mutant in MUTANTS}
    for name in names:
        if name not in by_name:
            near = difflib.get_close_matches(name, by_name, n=3, cutoff=0.4)
            print(
                f"There is no mutant {name!r}. {'Near it: ' + ', '.join(near) + '.' if near else ''}", file=sys.stderr
            )
            raise SystemExit(2)
    return [by_name[name] for name in names] or list(MUTANTS)


def main(names: Sequence[str]) -> int:
    """Tries the mutants of these names, or all; returns the exit status."""
    mutants, began = chosen(names), time.monotonic()
    counts: dict[Verdict, int] = {"caught": 0, "lives": 0, "broken": 0}
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        bench = Bench(copy_tree(ROOT, Path(folder) / "tree"))
        for mutant in mutants:
            if wrong := mutant.wrong(bench.tree):
                print(f"BROKEN  {mutant.name}: {'; '.join(wrong)}")
                return 1
        for backend in dict.fromkeys(mutant.backend for mutant in mutants):
            tests = dict.fromkeys(mutant.test for mutant in mutants if mutant.backend == backend)
            if printed := bench.passes([*tests], backend):
                print(f"{printed}\nThe tests must pass before faults are made.")
                return 1
        print(f"The tests pass on the code as it is ({time.monotonic() - began:.0f} s).", flush=True)
        for mutant in mutants:
            start = time.monotonic()
            found, printed = bench.judge(mutant)
            counts[found] += 1
            line = {
                "caught": f"caught  {mutant.name}  ({time.monotonic() - start:.1f} s)  by {mutant.test}",
                "lives": f"LIVES   {mutant.name}: {mutant.file}",
                "broken": f"BROKEN  {mutant.name}: {mutant.test} came to no verdict\n{printed[-3000:]}",
            }[found]
            print(line, flush=True)
    print(
        f"{counts['caught']} caught, {counts['lives']} live, {counts['broken']} broken, {time.monotonic() - began:.0f} s"
    )
    return int(counts["caught"] < len(mutants))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
