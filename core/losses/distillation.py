"""Self-distillation: a student's prediction of what a teacher makes of the whole picture, over prototypes.

SigLIP 2 (section 2.3) takes it from SILC (Naeem et al. 2023), whose loss is DINO's (Caron et al. 2021, section 3.1).
All of it is computed in float32, but for the operands of a `products.bfloat16_product`, and no gradient reaches the
teacher or the centre.
"""

from keras import ops, remat

from diptych.core.losses.products import Product, float32_product

LOGITS_PER_CHUNK, LEAST_ROWS = 2**25, 1_024
"""Of student and teacher together: 128 MiB; but no fewer than so many rows of the student's, for which a product of
matrices is worth its reading of the prototypes.
"""


def teacher_probabilities(teacher_logits, centre, *, temperature=0.04):
    """softmax((z - c) / τ) over the last axis: float32 `[..., K]` of logits z `[..., K]` and a centre c `[K]`, without
    gradient.
    """
    z, c = (ops.stop_gradient(_float32(x)) for x in (teacher_logits, centre))
    return ops.softmax((z - c) / temperature, axis=-1)


def sinkhorn_knopp(teacher_logits, *, temperature=0.04, iterations: int = 3):
    """Probabilities that use all prototypes evenly, float32 `[n, K]` of logits `[n, K]`, without gradient or centre.

    exp(z / τ), rescaled by turns so that every prototype gets n / K of the rows' mass and every row has mass 1, ends
    with the rows. Computed in logarithms, where nothing overflows and a prototype that nobody chooses divides nothing
    by zero. The n rows are those at hand: where a batch is spread over processes, gather its logits first.

    Reference: Oquab et al. 2023, "DINOv2", section 4, after Caron et al. 2020, "SwAV".
    """
    z = ops.stop_gradient(_float32(teacher_logits)) / temperature
    for _ in range(iterations):
        z = z - ops.logsumexp(z, axis=0, keepdims=True)
        z = z - ops.logsumexp(z, axis=1, keepdims=True)
    return ops.softmax(z, axis=-1)


def cross_entropy(student_logits, probabilities, *, temperature=0.1):
    """-Σ_k p_k log softmax(z / τ)_k, float32.

    Args:
        student_logits: z, `[..., K]` like the probabilities, or `[..., views, K]` with several views for each row of
            them, which is not repeated then.
        probabilities: p, float32 `[..., K]`, such as those of `teacher_probabilities` or `sinkhorn_knopp`.

    Returns:
        `[...]` or `[..., views]`.
    """
    z = _float32(student_logits) / temperature
    if len(z.shape) > len(probabilities.shape):
        expected = ops.squeeze(ops.matmul(z, ops.expand_dims(probabilities, -1)), axis=-1)
    else:
        expected = ops.sum(probabilities * z, axis=-1)
    return ops.logsumexp(z, axis=-1) - expected


def distillation_loss(student_logits, teacher_logits, centre, *, student_temperature=0.1, teacher_temperature=0.04):
    """The cross-entropy between the teacher's centred, sharpened prediction and the student's.

    L = -Σ_k softmax((z_t - c) / τ_t)_k log softmax(z_s / τ_s)_k

    Args:
        student_logits, teacher_logits: z_s and z_t, `[..., K]`.
        centre: c, `[K]`; see `updated_centre`.
        student_temperature, teacher_temperature: τ_s and τ_t > 0.

    Returns:
        float32 `[...]`, ln K where all logits are alike.

    Raises:
        ValueError: for logits and a centre that do not belong together.

    Reference: Caron et al. 2021, equations 1 to 3 and algorithm 1, with their code's temperatures.
    """
    _check_shapes(student_logits, teacher_logits, centre, views=False)
    probabilities = teacher_probabilities(teacher_logits, centre, temperature=teacher_temperature)
    return cross_entropy(student_logits, probabilities, temperature=student_temperature)


def view_distillation(student_logits, teacher_logits, centre, *, student_temperature=0.1, teacher_temperature=0.04):
    """`distillation_loss` of several views of an image, `[n, views, K]`, against one teacher's row `[n, K]`: their
    mean, `[n]`.

    SigLIP 2 has eight local views for one global view (section 2.3).
    """
    _check_shapes(student_logits, teacher_logits, centre, views=True)
    probabilities = teacher_probabilities(teacher_logits, centre, temperature=teacher_temperature)
    return ops.mean(cross_entropy(student_logits, probabilities, temperature=student_temperature), axis=-1)


def chunked_distillation(
    student_features,
    teacher_features,
    student_prototypes,
    teacher_prototypes,
    centre,
    *,
    student_temperature=0.1,
    teacher_temperature=0.04,
    rows_per_chunk: int | None = None,
    product: Product = float32_product,
):
    """`view_distillation` of logits features · prototypes, of which no more than a chunk's exist at a time.

    Each chunk is computed again for its gradient: a third more work in these products. Where one chunk holds all rows,
    nothing is computed twice.

    Args:
        student_features: `[n, views, d]`.   teacher_features: `[n, d]`.
        student_prototypes, teacher_prototypes: last layers `[d, K]`, each column a prototype.
        centre, student_temperature, teacher_temperature: as for `distillation_loss`.
        rows_per_chunk: rows of the teacher's logits at a time; by default as many as have `LOGITS_PER_CHUNK` with their
            views, or `LEAST_ROWS` views.
        product: how features · prototypes are computed.

    Returns:
        float32 `[n]`. The centre's update needs no logits: see `mean_logits`.

    Raises:
        ValueError: where n is not known ahead.
    """
    rows, views, width = student_features.shape
    outputs = student_prototypes.shape[-1]
    if rows is None:
        raise ValueError(
            "The chunked distillation loss needs to know the number of images ahead, and here it may vary: give "
            "batches a fixed size, as by drop_remainder=True, or use `view_distillation`."
        )
    if tuple(teacher_features.shape) != (rows, width):
        raise ValueError(
            f"Student features [n, views, d] {tuple(student_features.shape)} need teacher features [n, d] ({rows}, "
            f"{width}), got {tuple(teacher_features.shape)}."
        )
    if rows_per_chunk is None:
        rows_per_chunk = rows_at_once(views, outputs)
    student_features, student_prototypes = (_float32(x) for x in (student_features, student_prototypes))
    fixed = (teacher_features, teacher_prototypes, centre)
    teacher_features, teacher_prototypes, centre = (ops.stop_gradient(_float32(x)) for x in fixed)
    # What the chunks share is an argument of each, and a tensor: what a recomputation on tensorflow closes over gets no
    # gradient, and a variable gets it twice.
    shared = (student_prototypes, teacher_prototypes, centre)

    def losses(student, teacher, student_prototypes, teacher_prototypes, centre):
        logits = product(ops.reshape(student, (-1, width)), student_prototypes)
        return view_distillation(
            ops.reshape(logits, (-1, views, outputs)),
            product(teacher, teacher_prototypes),
            centre,
            student_temperature=student_temperature,
            teacher_temperature=teacher_temperature,
        )

    if rows <= rows_per_chunk:
        return losses(student_features, teacher_features, *shared)
    recomputed, whole = remat(losses), rows // rows_per_chunk * rows_per_chunk
    chunks = (
        ops.reshape(student_features[:whole], (-1, rows_per_chunk, views, width)),
        ops.reshape(teacher_features[:whole], (-1, rows_per_chunk, width)),
    )
    parts = [ops.reshape(ops.map(lambda chunk: recomputed(*chunk, *shared), chunks), (whole,))]
    if whole < rows:
        parts.append(recomputed(student_features[whole:], teacher_features[whole:], *shared))
    return ops.concatenate(parts)


def rows_at_once(views: int, outputs: int) -> int:
    """How many of the teacher's rows have logits at a time, each with its views."""
    return max(-(-LEAST_ROWS // views), LOGITS_PER_CHUNK // (outputs * (views + 1)))


def mean_logits(features, prototypes):
    """The mean over all rows of features `[..., d]` · prototypes `[d, K]`: float32 `[K]`, without gradient.

    Logits are linear in the features, so this is the product of their mean, and no row's logits are needed.
    """
    features, prototypes = (ops.stop_gradient(_float32(x)) for x in (features, prototypes))
    return ops.matmul(ops.mean(ops.reshape(features, (-1, features.shape[-1])), axis=0), prototypes)


def updated_centre(centre, teacher_mean, *, momentum: float = 0.9):
    """c <- m c + (1 - m) · mean of the teacher's logits over the whole batch, float32 `[K]`; after the centre was used.

    For patches the mean is over the masked ones of all images, as in DINOv2's code; iBOT's takes all patches.

    Reference: Caron et al. 2021, equation 4.
    """
    centre, teacher_mean = (ops.stop_gradient(_float32(x)) for x in (centre, teacher_mean))
    return momentum * centre + (1.0 - momentum) * teacher_mean


def _float32(x):
    """A float32 tensor of a tensor, an array or a variable."""
    return ops.cast(ops.convert_to_tensor(x), "float32")


def _check_shapes(student_logits, teacher_logits, centre, *, views: bool) -> None:
    student, teacher = tuple(student_logits.shape), tuple(teacher_logits.shape)
    alike = (*student[:-2], student[-1]) if views else student
    if teacher != alike or tuple(centre.shape) != teacher[-1:]:
        expected = "[n, views, K], [n, K] and [K]" if views else "[..., K], the same, and [K]"
        raise ValueError(
            f"Logits of student and teacher and the centre must have shapes {expected}; got {student}, {teacher} and "
            f"{tuple(centre.shape)}."
        )
