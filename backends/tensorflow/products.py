"""Products on the matrix units of what tensorflow computes on."""

import tensorflow as tf


def multiply_bfloat16(a, b):
    """See `diptych.core.losses.products.multiply_bfloat16`.

    tensorflow has no product of bfloat16 operands with float32 results outside XLA, so the operands are widened.
    """
    return tf.matmul(tf.cast(a, tf.float32), tf.cast(b, tf.float32))
