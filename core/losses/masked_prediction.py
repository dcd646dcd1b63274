"""Masked prediction: a student that does not see some patches predicts what the teacher, who sees them, makes of each.

SigLIP 2 (section 2.3) takes it from TIPS (Maninis et al. 2024), whose patch loss is iBOT's (Zhou et al. 2022), and
hides half of the patches; student and teacher see the same view.
"""

from keras import ops

from diptych.core.losses.distillation import chunked_distillation, distillation_loss


def patch_mask(masked_patches, num_patches: int):
    """Which of an image's patches are masked: bool `[n, num_patches]` of their places, int32 `[n, m]`."""
    places = ops.arange(num_patches, dtype="int32")
    hits = ops.equal(ops.expand_dims(ops.cast(masked_patches, "int32"), -1), places)
    return ops.any(hits, axis=1)


def gather_patches(tokens, masked_patches):
    """The tokens `[n, N, d]` at the places int32 `[n, m]`, in their order: `[n, m, d]`, with a dense gradient on every
    backend.
    """
    images, length, width = ops.shape(tokens)
    count = masked_patches.shape[-1]
    # Rows of one table: `take_along_axis` on tensorflow would gather number by number, by an index as large as the
    # tokens.
    rows = ops.cast(masked_patches, "int32") + ops.expand_dims(ops.arange(images, dtype="int32") * length, -1)
    taken = ops.take(ops.reshape(tokens, (images * length, width)), ops.reshape(rows, (-1,)), axis=0)
    return ops.reshape(taken, (images, count, width))


def masked_prediction_loss(
    student_logits, teacher_logits, centre, *, student_temperature=0.1, teacher_temperature=0.04
):
    """`distillation_loss` of each masked patch, its mean over an image's: `[n, m, K]` twice and a centre `[K]` ->
    float32 `[n]`.

    Reference: Zhou et al. 2022, with the mean over masked patches of their code.
    """
    loss = distillation_loss(
        student_logits,
        teacher_logits,
        centre,
        student_temperature=student_temperature,
        teacher_temperature=teacher_temperature,
    )
    return ops.mean(loss, axis=-1)


def chunked_masked_prediction(
    student_features, teacher_features, student_prototypes, teacher_prototypes, centre, **settings
):
    """`masked_prediction_loss` of features `[n, m, d]` · prototypes `[d, K]`, a chunk of logits at a time: float32
    `[n]`.

    Settings and errors as for `chunked_distillation`; a row there is a patch here.
    """
    images, patches, width = student_features.shape
    if images is None or tuple(teacher_features.shape) != (images, patches, width):
        raise ValueError(
            "Features of student and teacher must both be [n, m, d] with n known ahead, got "
            f"{tuple(student_features.shape)} and {tuple(teacher_features.shape)}."
        )
    losses = chunked_distillation(
        ops.reshape(student_features, (images * patches, 1, width)),
        ops.reshape(teacher_features, (images * patches, width)),
        student_prototypes,
        teacher_prototypes,
        centre,
        **settings,
    )
    return ops.mean(ops.reshape(losses, (images, patches)), axis=-1)
