"""Captioning term: a decoder writes captions, and the boxes and phrases of regions.

Reference: LocCa, Wan et al. 2024.
"""

from keras import ops

from diptych import backends
from diptych.core.data.examples.captioning import TASKS, CaptionTargets
from diptych.core.losses.captioning import (
    TaskWeighting,
    bounded_cross_entropy,
    captioning_loss,
    combine_tasks,
    tasks_present,
    tokens_at_once,
)
from diptych.core.losses.products import Product, float32_product
from diptych.core.training.objectives import Loss, Mean
from diptych.engine.training.terms.stage_term import StageTerm
from diptych.models.captioner.config import captioner_config, captioner_flops
from diptych.models.siglip.parts import DecoderPart

_FLOAT32_BYTES = 4


class Captioning(StageTerm):
    """The cross-entropy of what the decoder is to write, with the image tower's tokens before its eyes.

    Args:
        task_weighting: how caption, referring expression and grounded caption become one loss (`combine_tasks`).
        product: how logits are computed.
    """

    independent = True

    def __init__(self, task_weighting: TaskWeighting = "mean", product: Product = float32_product):
        self.task_weighting, self.product = task_weighting, product

    @classmethod
    def build(cls, recipe, planned, teacher, placement):
        return cls(recipe.captioning.task_weighting, backends.product(recipe.model.precision))

    @classmethod
    def parts(cls, recipe, towers):
        options = recipe.captioning
        config = captioner_config(
            towers,
            depth=options.decoder_depth,
            context_length=options.target_length,
            tie_embeddings=options.tie_embeddings,
        )
        return {"captioner": DecoderPart(config=config)}

    @classmethod
    def examples(cls, recipe, planned, preprocess):
        options = recipe.captioning
        targets = CaptionTargets(
            tokenizer_path=preprocess.tokenizer_path,
            context_length=planned.decoder.context_length,
            parallel_probability=options.parallel_probability,
            bins=options.box_bins,
            order=options.box_order,
        )
        if preprocess.tokenizer_path:  # a plan may know none
            targets.check(boxes=options.require_boxes)
        return {"targets": targets}

    def embed(self, seen):
        """-> the decoder's losses `[n, tasks]`, and the tasks that each example has, float32 `[n, tasks]`."""
        batch, captioner = seen.batch, seen.model.parts["captioner"]
        labels, weights = batch["target_tokens"], batch["target_weights"]
        images, tasks, length = labels.shape
        parallel = ops.expand_dims(ops.cast(batch["parallel"], "bool"), -1)
        parallel = ops.concatenate([parallel, ops.zeros((images, tasks - 1), dtype="bool")], axis=-1)
        hidden = captioner(labels, seen.image["tokens"], parallel=parallel, encoder_mask=seen.image["mask"])
        tokens = images * tasks * length
        losses = bounded_cross_entropy(
            ops.reshape(hidden, (tokens, hidden.shape[-1])),
            captioner.logits_kernel,
            captioner.logits_bias,
            ops.reshape(labels, (tokens,)),
            product=self.product,
        )
        losses = captioning_loss(ops.reshape(losses, (images, tasks, length)), weights)
        return {"losses": losses, "present": tasks_present(weights)}

    def loss(self, model, embedded):
        losses, present = embedded["losses"], embedded["present"]
        totals, shares = (ops.mean(x, axis=0) for x in (losses * present, present))
        logs = {f"{task}_loss": Mean(totals[index], shares[index]) for index, task in enumerate(TASKS)}
        return Loss(ops.mean(combine_tasks(losses, present, weighting=self.task_weighting)), logs)

    @classmethod
    def flops(cls, recipe, planned, towers):
        written = [captioner_flops(planned.decoder, image_tokens=length)["total"] for length in towers.lengths]
        return 3 * sum(written) / len(written)

    @classmethod
    def activation_bytes(cls, recipe, planned, rows):
        """Of the decoder's features; of blocks that are computed again their inputs."""
        c = planned.decoder
        token = c.width if recipe.model.grad_checkpointing else 10 * c.width + 2 * c.mlp_dim
        compute_bytes = 2 if recipe.model.precision == "bfloat16" else _FLOAT32_BYTES
        return rows * 3 * c.context_length * c.depth * token * compute_bytes

    @classmethod
    def passing_bytes(cls, recipe, planned, rows):
        """Of the logits of a chunk, in whose place their gradient comes."""
        c = planned.decoder
        return min(rows * 3 * c.context_length, tokens_at_once(c.vocab_size)) * c.vocab_size * _FLOAT32_BYTES
