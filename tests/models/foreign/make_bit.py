"""The maker of `timm_bit` and `big_vision_bit`.

`pip install timm flax`, then `python -m tests.models.foreign.make_bit`.

A pre-activation BiT of timm 1.0.31, with the stem and the epsilons of its `resnetv2_*_bit`; and the post-activation one
written in flax 0.12 with its own convolutions, norms and maxima, under the names of big_vision's `models/bit.py`. Every
weight is drawn, kernels so small for some of their outputs that the epsilon of their standardisation counts;
"expected.npz" holds what they compute.
"""

import json
from functools import partial

import numpy as np

from tests.models.foreign.make import FOLDER

DEPTHS, WIDTH, CLASSES, SIDE = (1, 2), 8, 5, 22


def main() -> None:
    """Writes both checkpoints and what comes out of them."""
    rng = np.random.default_rng(4)
    images = rng.uniform(-1, 1, (3, SIDE, SIDE, 3)).astype("float32")
    make_timm(images, rng)
    make_big_vision(images, rng)


def make_timm(images: np.ndarray, rng: np.random.Generator) -> None:
    """Writes `timm_bit`."""
    import torch
    from safetensors.torch import save_file
    from timm.layers import GroupNormAct, StdConv2d
    from timm.models.resnetv2 import ResNetV2

    model = ResNetV2(
        layers=DEPTHS,
        channels=tuple(4 * WIDTH * 2**stage for stage in range(len(DEPTHS))),
        num_classes=CLASSES,
        stem_chs=WIDTH,
        stem_type="fixed",
        conv_layer=partial(StdConv2d, eps=1e-8),
        norm_layer=partial(GroupNormAct, num_groups=WIDTH),
    ).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            scale = name.endswith("weight") and value.ndim == 1
            kernel = value.ndim == 4 and not name.startswith("head")
            value.copy_(torch.from_numpy(drawn(tuple(value.shape), rng, scale=scale, outputs=0 if kernel else None)))
        features = model.forward_features(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
        expected = {"pooled": model.forward_head(features, pre_logits=True), "logits": model.forward_head(features)}
    folder = FOLDER / "timm_bit"
    folder.mkdir(exist_ok=True)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "model.safetensors")
    settings = {"input_size": [3, SIDE, SIDE], "mean": [0.5] * 3, "std": [0.5] * 3}
    fields = {"architecture": "resnetv2_50x1_bit", "num_classes": CLASSES, "pretrained_cfg": settings}
    (folder / "config.json").write_text(json.dumps(fields, indent=2) + "\n")
    np.savez(folder / "expected.npz", images=images, **{name: value.numpy() for name, value in expected.items()})


def make_big_vision(images: np.ndarray, rng: np.random.Generator) -> None:
    """Writes `big_vision_bit`."""
    import jax
    from flax import linen
    from flax.traverse_util import flatten_dict, unflatten_dict

    def standardized(kernel):
        centred = kernel - kernel.mean((0, 1, 2))
        return centred / (kernel.std((0, 1, 2)) + 1e-5)

    class Network(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = linen.max_pool(linen.relu(self.pair(x, "", "root", WIDTH, 7, 2)), (3, 3), (2, 2), "SAME")
            for stage, depth in enumerate(DEPTHS):
                for unit in range(depth):
                    stride = 2 if stage and not unit else 1
                    x = self.unit(x, f"block{stage + 1}/unit{unit + 1}/", WIDTH * 2**stage, stride)
            pooled = x.mean((1, 2))
            return pooled, linen.Dense(CLASSES, name="head")(pooled)

        def unit(self, x, path, width, stride):
            shortcut = x
            if x.shape[-1] != 4 * width or stride > 1:
                shortcut = self.pair(x, path, "_proj", 4 * width, 1, stride)
            y = linen.relu(self.pair(x, path, "1", width, 1, 1))
            y = linen.relu(self.pair(y, path, "2", width, 3, stride))
            return linen.relu(shortcut + self.pair(y, path, "3", 4 * width, 1, 1))

        def pair(self, x, path, name, filters, size, stride):
            """A convolution and its norm."""
            # Modules of this name are told apart by "/", as big_vision's nested ones are in its files.
            joint = "_" if name == "root" else ""
            conv = linen.Conv(filters, (size, size), stride, use_bias=False, name=f"{path}conv{joint}{name}")
            return linen.GroupNorm(WIDTH, name=f"{path}gn{joint}{name}")(conv(x))

    network = Network()
    shapes = flatten_dict(jax.eval_shape(network.init, jax.random.key(0), images)["params"])
    weights = {
        name: drawn(value.shape, rng, scale=name[-1] == "scale", outputs=3 if value.ndim == 4 else None)
        for name, value in sorted(shapes.items())
    }
    used = {name: standardized(value) if value.ndim == 4 else value for name, value in weights.items()}
    with jax.default_matmul_precision("highest"):
        pooled, logits = network.apply({"params": unflatten_dict(used)}, images)
    folder = FOLDER / "big_vision_bit"
    folder.mkdir(exist_ok=True)
    np.savez(folder / "weights.npz", **{"params/" + "/".join(name): value for name, value in weights.items()})
    np.savez(folder / "expected.npz", images=images, pooled=np.asarray(pooled), logits=np.asarray(logits))


def drawn(shape: tuple[int, ...], rng: np.random.Generator, *, scale: bool, outputs: int | None) -> np.ndarray:
    """Numbers around one for scales, and around zero for all else; those of kernels, which have an axis of outputs,
    from 0.3 down to 3e-6.
    """
    values = scale + 0.3 * rng.standard_normal(shape)
    if outputs is not None:
        sizes = 10 ** rng.uniform(-5, 0, shape[outputs])
        values = values * np.moveaxis(sizes.reshape((-1,) + (1,) * (values.ndim - 1)), 0, outputs)
    return values.astype("float32")


if __name__ == "__main__":
    main()
