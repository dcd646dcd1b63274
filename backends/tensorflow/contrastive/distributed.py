"""A contrastive loss of a batch spread over the replicas of a `tf.distribute` strategy, with the texts gathered.

Every replica keeps its images and computes its rows of the matrix of pairs, in each sweep once: one all-gather of the
texts, and for each sweep one all-reduce of what it adds up for them, of which each replica keeps its own part. The
backward pass sends nothing. Collectives stay outside of what XLA compiles.
"""

from functools import partial
from typing import Literal

import tensorflow as tf

from diptych.backends.tensorflow.contrastive.loss import PairLoss, as_tensors, block_sizes, differentiable_once


def distributed_loss(
    which: PairLoss,
    image_embeddings,
    text_embeddings,
    *,
    group: tf.distribute.ReplicaContext | None = None,
    exchange: Literal["gather"] = "gather",
    gradients: Literal["sum", "mean"] = "sum",
    largest_block: int | None = None,
    forward_only: bool = False,
    implementation: Literal["xla"] = "xla",
    **scalars,
):
    """The loss of the global batch, on every replica; called inside `strategy.run`, outside of functions compiled by
    XLA.

    The loss is divided by the global number of images. Its gradient with respect to the embeddings is that of the
    global loss; with respect to the scalars it is this replica's part, and the sum over the replicas is the whole.
    gradients="mean" multiplies all of them by the number of replicas, for training that averages gradients over them.

    Keras' own trainer averages: its optimizers add gradients up over the replicas, and it divides each loss of
    `compile` and `add_loss` by their number before that. An overridden `compute_loss` is not divided, which makes it a
    sum.

    Args:
        image_embeddings, text_embeddings: `[n, d]`, this replica's pairs, as many on each replica.
        group: the replica context, None for the current one.
        exchange: "gather"; tf.distribute has no other.
        largest_block, forward_only, implementation, scalars: as for `pair_loss`; scalars are the same on every replica.

    Raises:
        ValueError: outside of a replica context, or for an unknown exchange or reduction.
        tf.errors.InvalidArgumentError: where the replicas' batches differ in size.
    """
    if exchange != "gather":
        raise ValueError(
            f"exchange={exchange!r} of {which.name} cannot run on tensorflow: tf.distribute has no point-to-point "
            "exchange. Expected 'gather'."
        )
    if gradients not in ("sum", "mean"):
        raise ValueError(f"Unknown gradients={gradients!r} of distributed_{which.name}: expected 'sum' or 'mean'.")
    context = group or tf.distribute.get_replica_context()
    if context is None:
        raise ValueError(
            f"distributed_{which.name} needs a replica context and was called in a cross-replica one: call it in a "
            "function that strategy.run runs."
        )
    compute = partial(
        _on_this_replica,
        which,
        context,
        context.num_replicas_in_sync if gradients == "mean" else 1,
        **block_sizes(largest_block),
        with_gradients=not forward_only,
    )
    return differentiable_once(which, compute, *as_tensors(which, image_embeddings, text_embeddings, scalars))


def _on_this_replica(which: PairLoss, context, multiplier, x, y, *scalars, **plan) -> list:
    with tf.control_dependencies(_size_checks(x, y, context)):
        texts = _gathered(y, context)
    own, replicas = tf.shape(x)[0], context.num_replicas_in_sync
    first = tf.cast(context.replica_id_in_sync_group, tf.int32) * own

    def exchange(sweep, *beside, adds_up=True):
        images, *of_texts = beside or [None]
        swept = sweep(x, texts, first, *([images] if beside else []), *(_gathered(a, context) for a in of_texts))
        if swept.text is None:
            return swept
        if adds_up:
            text = context.all_reduce(tf.distribute.ReduceOp.SUM, swept.text)
        else:
            by_replica = tf.reshape(context.all_gather(swept.text, axis=0), [replicas, -1, swept.text.shape[1]])
            text = tf.reduce_logsumexp(by_replica, axis=0)
        return swept._replace(text=text[first : first + own])

    denominator = tf.cast(replicas * own, tf.float32)
    value, *parts = which.compute(exchange, x, y, *scalars, offset=tf.constant(0), denominator=denominator, **plan)
    value = context.all_reduce(tf.distribute.ReduceOp.SUM, value)
    return [value, *(None if part is None else multiplier * part for part in parts)]


def _gathered(x, context):
    """The rows of all replicas."""
    return tf.ensure_shape(context.all_gather(x, axis=0), [None, x.shape[1]])  # in a graph its shape is unknown


def _size_checks(x, y, context) -> list[tf.Operation]:
    """The assertion that every replica has as many images and texts; in eager code it is made at once."""
    sizes = context.all_gather(tf.stack([tf.shape(x)[:1], tf.shape(y)[:1]], axis=1), axis=0)
    check = tf.debugging.Assert(
        tf.reduce_all(sizes == sizes[0, 0]),
        [
            "The loss needs as many pairs on every replica; images and texts of each replica:",
            sizes,
            "Drop the last, smaller batch, or pad it on every replica alike.",
        ],
        summarize=64,
    )
    return [] if check is None else [check]
