"""Self-distillation and masked prediction: losses, head, and an image tower with hidden patches.

Further letters: k views, i masked patches, f features (the bottleneck), o outputs (prototypes).
"""

import math

import numpy as np

from tests.oracle.attention import softmax
from tests.oracle.contrastive import normalize
from tests.oracle.encoder import encoder
from tests.oracle.linear import linear_layer
from tests.oracle.pooling import pool
from tests.oracle.towers import patches

LAST_KERNEL = "prototype_kernel"


def distillation_loss(student, teacher, centre, *, student_temperature=0.1, teacher_temperature=0.04):
    """L = -Σ_o p_o log q_o with p = softmax((z_t - c) / τ_t), q = softmax(z_s / τ_s): `[..., o]` -> `[...]`.

    dz_s = dL (q - p) / τ_s; p is a constant, so teacher and centre get nothing.
    """
    targets, _ = softmax((teacher - centre) / teacher_temperature)
    scaled = student / student_temperature
    scaled = scaled - scaled.max(-1, keepdims=True)
    logs = scaled - np.log(np.exp(scaled).sum(-1, keepdims=True))

    def backward(dloss):
        return dloss[..., None] * (np.exp(logs) - targets) / student_temperature

    return -(targets * logs).sum(-1), backward


def mean_distillation(student, teacher, centre, **temperatures):
    """The mean of `distillation_loss` over the last axis but one: views `[b, k, o]` against `[b, 1, o]`, or patches
    `[b, i, o]`.
    """
    loss, backward_loss = distillation_loss(student, teacher, centre, **temperatures)
    count = student.shape[-2]

    def backward(dloss):
        return backward_loss(np.repeat(dloss[..., None], count, -1) / count)

    return loss.mean(-1), backward


def from_features(
    loss, student_features, teacher_features, student_prototypes, teacher_prototypes, centre, **temperatures
):
    """`loss` of the logits features · prototypes; with dz from it, df = dz Wᵀ and dW = Σ fᵀ dz for the student
    alone.
    """
    value, backward_loss = loss(
        student_features @ student_prototypes, teacher_features @ teacher_prototypes, centre, **temperatures
    )

    def backward(dloss):
        dlogits = backward_loss(dloss)
        return dlogits @ student_prototypes.T, _summed(student_features, dlogits)

    return value, backward


def _summed(features, dlogits):
    """Σ fᵀ dz over all leading axes, `[f, o]`."""
    return features.reshape(-1, features.shape[-1]).T @ dlogits.reshape(-1, dlogits.shape[-1])


def sinkhorn_knopp(teacher, *, temperature=0.04, iterations=3):
    """DINOv2's steps as they are written: Q = exp(z / τ)ᵀ / Σ, then by turns rows to 1/o and columns to 1/b, then times
    b.
    """
    q = np.exp(teacher / temperature).T
    outputs, rows = q.shape
    q = q / q.sum()
    for _ in range(iterations):
        q = q / q.sum(1, keepdims=True) / outputs
        q = q / q.sum(0, keepdims=True) / rows
    return (q * rows).T


def updated_centre(centre, teacher, *, momentum=0.9):
    """m c + (1 - m) · the mean of the teacher's logits over all its leading axes."""
    return momentum * centre + (1 - momentum) * teacher.reshape(-1, teacher.shape[-1]).mean(0)


def exact_gelu(x):
    """y = x Φ(x) with the normal distribution's Φ; dy/dx = Φ + x φ."""
    phi = 0.5 * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0)))

    def backward(dy):
        return dy * (phi + x * np.exp(-0.5 * x**2) / math.sqrt(2.0 * math.pi))

    return x * phi, backward


def unit_columns(kernel):
    """W = V / ‖V‖ for each column; dV = (dW - W (W·dW)) / ‖V‖, at a right angle to V."""
    norms = np.sqrt(np.square(kernel).sum(0, keepdims=True))
    unit = kernel / norms

    def backward(dunit):
        return (dunit - unit * (unit * dunit).sum(0, keepdims=True)) / norms

    return unit, backward


def head_features(x, parameters, *, layers):
    """`[..., w]` -> unit vectors `[..., f]`; its backward returns dx and collects the rest."""
    way_back = []
    for index in range(layers):
        if index:
            x, backward_gelu = exact_gelu(x)
            way_back.insert(0, backward_gelu)
        x, backward_linear = linear_layer(x, parameters, f"layer_{index}_kernel", f"layer_{index}_bias")
        way_back.insert(0, backward_linear)
    y, backward_normalize = normalize(x)

    def backward(dy):
        dx = backward_normalize(dy)
        for step in way_back:
            dx = step(dx)
        return dx

    return y, backward


def head(x, parameters, *, layers):
    """`[..., w]` -> logits `[..., o]`."""
    features, backward_features = head_features(x, parameters, layers=layers)
    prototypes, backward_prototypes = unit_columns(parameters[LAST_KERNEL])

    def backward(dy):
        parameters.add(LAST_KERNEL, backward_prototypes(_summed(features, dy)))
        return backward_features(dy @ prototypes.T)

    return features @ prototypes, backward


def resize_matrix(old, new):
    """A flattened old x old table at a new x new grid, `[new², old²]`: a triangle of half width max(old / new, 1)
    around each centre.
    """
    reach = max(old / new, 1.0)
    line = np.zeros((new, old))
    for target in range(new):
        for source in range(old):
            line[target, source] = max(0.0, 1.0 - abs((target + 0.5) * old / new - (source + 0.5)) / reach)
    line /= line.sum(1, keepdims=True)
    return np.einsum("ia,jb->ijab", line, line).reshape(new * new, old * old)


def encode(images, parameters, config, *, mask_token=None, masked=None):
    """Images `[b, size, size, 3]` -> (pooled `[b, w or e]`, tokens `[b, n, w]`), with positions resized to their grid.

    Where `masked` `[b, n]`, the mask token stands in place of the embedded patch, before the positions. Its backward
    takes the gradients of both results and returns that of the mask token.
    """
    batch, width = len(images), config["width"]
    x, kernel = patches(images, config["patch_size"]), parameters["patch_embedding/kernel"]
    table = parameters["position_embedding/embedding"]
    resize = resize_matrix(math.isqrt(len(table)), images.shape[1] // config["patch_size"])
    hidden = np.zeros((*x.shape[:2], 1)) if masked is None else masked[..., None].astype(np.float64)
    embedded = (1 - hidden) * (x @ kernel.reshape(-1, width) + parameters["patch_embedding/bias"])
    embedded = embedded + hidden * (0.0 if mask_token is None else mask_token) + resize @ table
    with_class = config["pooling"] == "cls"
    if with_class:
        token = np.broadcast_to(parameters["class_token/token"], (batch, 1, width))
        embedded = np.concatenate([token, embedded], axis=1)
    tokens, backward_encoder = encoder(
        embedded, parameters.at("encoder"), depth=config["depth"], num_heads=config["num_heads"]
    )
    pooled, backward_pool = pool(tokens, parameters, pooling=config["pooling"], num_heads=config["num_heads"])
    backward_projection = None
    if config.get("embed_dim"):
        pooled, backward_projection = linear_layer(pooled, parameters.at("projection"))

    def backward(dpooled, dtokens):
        if backward_projection:
            dpooled = backward_projection(dpooled)
        dx = backward_encoder(dtokens + backward_pool(dpooled))
        if with_class:
            parameters.add("class_token/token", dx[:, 0].sum(0))
            dx = dx[:, 1:]
        parameters.add("position_embedding/embedding", resize.T @ dx.sum(0))
        seen = (1 - hidden) * dx
        parameters.add("patch_embedding/bias", seen.sum((0, 1)))
        parameters.add("patch_embedding/kernel", np.einsum("bnk,bnw->kw", x, seen).reshape(kernel.shape))
        return (hidden * dx).sum((0, 1))

    return (pooled, tokens), backward
