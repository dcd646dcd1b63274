"""BiT's ResNet towers, of both kinds: every convolution, norm and maximum with its gradient derived by hand.

Images are `[b, height, width, channels]`. Configurations are plain dictionaries, named as `BiTConfig`.
"""

import numpy as np

from tests.oracle.linear import linear_layer


def same_margins(side: int, size: int, stride: int) -> tuple[int, int]:
    """tensorflow's "SAME": as many pixels as ⌈side / stride⌉ places need, the odd one at the end."""
    total = max((-(-side // stride) - 1) * stride + size - side, 0)
    return total // 2, total - total // 2


def margins(x, size: int, stride: int, same: bool) -> list[tuple[int, int]]:
    """What is laid around images, for `np.pad`."""
    around = [same_margins(side, size, stride) if same else (size // 2, size // 2) for side in x.shape[1:3]]
    return [(0, 0), *around, (0, 0)]


def windows(x, size: int, stride: int):
    """(row in the window, column in the window, part of `x` by which every window has its pixel there)."""
    rows, columns = ((side - size) // stride + 1 for side in x.shape[1:3])
    for row in range(size):
        for column in range(size):
            yield row, column, x[:, row : row + stride * rows : stride, column : column + stride * columns : stride]


def convolution(x, kernel, *, stride: int = 1, same: bool = True):
    """y[i, j] = Σ x[s i + r, s j + c] W[r, c] over the padded image; `[b, h, w, m]`, `[k, k, m, n]` -> `[b, h', w',
    n]`.

    dW[r, c] = Σ x[s i + r, s j + c]ᵀ dy[i, j], and dx gathers dy Wᵀ from all windows that a pixel lies in.
    """
    size = len(kernel)
    around = margins(x, size, stride, same)
    padded = np.pad(x, around)
    y = sum(part @ kernel[row, column] for row, column, part in windows(padded, size, stride))

    def backward(dy):
        dpadded, dkernel = np.zeros_like(padded), np.zeros_like(kernel)
        for row, column, part in windows(padded, size, stride):
            dkernel[row, column] = np.einsum("bijm,bijn->mn", part, dy)
        for row, column, part in windows(dpadded, size, stride):
            part += dy @ kernel[row, column].T
        (top, _), (left, _) = around[1:3]
        return dpadded[:, top : top + x.shape[1], left : left + x.shape[2]], dkernel

    return y, backward


def standardize(kernel, *, epsilon: float, in_root: bool):
    """c / (σ + ε), or c / √(σ² + ε), with c = W - mean(W) and σ² = mean(c²) for each output.

    With f the factor on c: dc = f dy - c mean(c dy) f² / σ for the first, f dy - c mean(c dy) f³ for the second, and
    dW = dc - mean(dc).
    """
    axes = (0, 1, 2)
    centred = kernel - kernel.mean(axes)
    variance = np.square(centred).mean(axes)
    factor = 1 / np.sqrt(variance + epsilon) if in_root else 1 / (np.sqrt(variance) + epsilon)
    bend = factor**3 if in_root else factor**2 / np.sqrt(variance)

    def backward(dy):
        dcentred = factor * dy - centred * (centred * dy).mean(axes) * bend
        return dcentred - dcentred.mean(axes)

    return centred * factor, backward


def group_norm(x, scale, bias, *, groups: int, epsilon: float):
    """y = x̂ scale + bias with x̂ of mean 0 and variance 1 over all places of a group of neighbouring channels."""
    shape = (x.shape[0], -1, groups, x.shape[3] // groups)

    def mean(values):
        return values.mean((1, 3), keepdims=True)

    grouped = x.reshape(shape)
    centred = grouped - mean(grouped)
    inverse = 1 / np.sqrt(mean(np.square(centred)) + epsilon)
    normalised = centred * inverse
    flat = normalised.reshape(x.shape)

    def backward(dy):
        dnormalised = (dy * scale).reshape(shape)
        dx = inverse * (dnormalised - mean(dnormalised) - normalised * mean(dnormalised * normalised))
        return dx.reshape(x.shape), (dy * flat).sum((0, 1, 2)), dy.sum((0, 1, 2))

    return flat * scale + bias, backward


def relu(x):
    """max(x, 0); its gradient at 0 is 0."""
    return np.maximum(x, 0), lambda dy: dy * (x > 0)


def maximum(x, *, same: bool):
    """The largest of 3 x 3 pixels at a stride of two. "same" margins hold nothing, symmetric ones zeros."""
    around = margins(x, 3, 2, same)
    padded = np.pad(x, around, constant_values=-np.inf if same else 0.0)
    stacked = np.stack([part for _, _, part in windows(padded, 3, 2)])
    chosen = stacked.argmax(0)

    def backward(dy):
        dpadded = np.zeros_like(padded)
        for place, (_, _, part) in enumerate(windows(dpadded, 3, 2)):
            part += dy * (chosen == place)
        (top, _), (left, _) = around[1:3]
        return dpadded[:, top : top + x.shape[1], left : left + x.shape[2]]

    return stacked.max(0), backward


class _Layers:
    """The layers of one configuration: each returns its value and a backward, which collects its weights' gradients."""

    def __init__(self, parameters, config):
        self.parameters, self.config, self.pre = parameters, config, config["pre_activation"]

    def conv(self, x, name, stride=1):
        epsilon = self.config.get("variance_epsilon", 1e-10) if self.pre else 1e-5
        path = f"{name}/kernel"
        kernel, backward_kernel = standardize(self.parameters[path], epsilon=epsilon, in_root=self.pre)
        y, backward_conv = convolution(x, kernel, stride=stride, same=not self.pre)

        def backward(dy):
            dx, dkernel = backward_conv(dy)
            self.parameters.add(path, backward_kernel(dkernel))
            return dx

        return y, backward

    def norm(self, x, name):
        scale, bias = (self.parameters[f"{name}/{part}"] for part in ("scale", "bias"))
        epsilon = 1e-5 if self.pre else 1e-6
        y, backward_norm = group_norm(x, scale, bias, groups=self.config["num_groups"], epsilon=epsilon)

        def backward(dy):
            dx, dscale, dbias = backward_norm(dy)
            self.parameters.add(f"{name}/scale", dscale)
            self.parameters.add(f"{name}/bias", dbias)
            return dx

        return y, backward

    def unit(self, x, name, stride, projects):
        return (self._norms_first if self.pre else self._norms_last)(x, name, stride, projects)

    def _norms_first(self, x, name, stride, projects):
        entered, back_entered = _chain(x, [lambda x: self.norm(x, f"{name}/norm_1"), relu])
        y, back_branch = _chain(
            entered,
            [
                lambda x: self.conv(x, f"{name}/conv_1"),
                lambda x: self.norm(x, f"{name}/norm_2"),
                relu,
                lambda x: self.conv(x, f"{name}/conv_2", stride),
                lambda x: self.norm(x, f"{name}/norm_3"),
                relu,
                lambda x: self.conv(x, f"{name}/conv_3"),
            ],
        )
        if not projects:
            return x + y, lambda dy: dy + back_entered(back_branch(dy))
        shortcut, back_shortcut = self.conv(entered, f"{name}/shortcut_conv", stride)
        return shortcut + y, lambda dy: back_entered(back_branch(dy) + back_shortcut(dy))

    def _norms_last(self, x, name, stride, projects):
        y, back_branch = _chain(
            x,
            [
                lambda x: self.conv(x, f"{name}/conv_1"),
                lambda x: self.norm(x, f"{name}/norm_1"),
                relu,
                lambda x: self.conv(x, f"{name}/conv_2", stride),
                lambda x: self.norm(x, f"{name}/norm_2"),
                relu,
                lambda x: self.conv(x, f"{name}/conv_3"),
                lambda x: self.norm(x, f"{name}/norm_3"),
            ],
        )
        shortcut, back_shortcut = x, lambda dy: dy
        if projects:
            shortcut, back_shortcut = _chain(
                x,
                [
                    lambda x: self.conv(x, f"{name}/shortcut_conv", stride),
                    lambda x: self.norm(x, f"{name}/shortcut_norm"),
                ],
            )
        out, back_out = relu(shortcut + y)

        def backward(dy):
            dsum = back_out(dy)
            return back_branch(dsum) + back_shortcut(dsum)

        return out, backward


def _chain(x, functions):
    """f_n(... f_1(x)), and its backward."""
    backwards = []
    for function in functions:
        x, backward = function(x)
        backwards.append(backward)

    def whole(dy):
        for backward in reversed(backwards):
            dy = backward(dy)
        return dy

    return x, whole


def units(config):
    """(name, stride, whether its shortcut is projected, channels in, inside) of every unit in order."""
    inputs = config["width"]
    for stage, depth in enumerate(config["stage_depths"]):
        width = config["width"] * 2**stage
        for unit in range(depth):
            stride = 2 if stage > 0 and unit == 0 else 1
            yield f"stage_{stage + 1}/block_{unit:02d}", stride, stride > 1 or inputs != 4 * width, inputs, width
            inputs = 4 * width


def bit_tower(images, parameters, config):
    """Images in [-1, 1] -> the mean of the last features, `[b, w]`, or `[b, e]` with a projection."""
    layers = _Layers(parameters, config)
    pre = config["pre_activation"]
    functions = [lambda x: layers.conv(x, "stem/conv", 2)]
    functions += [] if pre else [lambda x: layers.norm(x, "stem/norm"), relu]
    functions += [lambda x: maximum(x, same=not pre)]
    functions += [
        lambda x, name=name, stride=stride, projects=projects: layers.unit(x, name, stride, projects)
        for name, stride, projects, _, _ in units(config)
    ]
    functions += [lambda x: layers.norm(x, "norm"), relu] if pre else []
    x, backward_layers = _chain(np.asarray(images, np.float64), functions)
    pooled = x.mean((1, 2))
    backward_projection = lambda dy: dy  # noqa: E731
    if config.get("embed_dim"):
        pooled, backward_projection = linear_layer(pooled, parameters.at("projection"))

    def backward(dpooled):
        dmean = backward_projection(dpooled)[:, None, None] / (x.shape[1] * x.shape[2])
        return backward_layers(np.broadcast_to(dmean, x.shape))

    return pooled, backward


def bit_shapes(config) -> dict[str, tuple[int, ...]]:
    """Every weight of the tower: path below the tower's -> shape."""
    width, pre = config["width"], config["pre_activation"]
    shapes = {"stem/conv/kernel": (7, 7, 3, width)}
    normed = {} if pre else {"stem/norm": width}
    for name, _, projects, inputs, inside in units(config):
        outputs = 4 * inside
        shapes[f"{name}/conv_1/kernel"] = (1, 1, inputs, inside)
        shapes[f"{name}/conv_2/kernel"] = (3, 3, inside, inside)
        shapes[f"{name}/conv_3/kernel"] = (1, 1, inside, outputs)
        around = (inputs, inside, inside) if pre else (inside, inside, outputs)
        normed |= {f"{name}/norm_{number}": channels for number, channels in enumerate(around, 1)}
        if projects:
            shapes[f"{name}/shortcut_conv/kernel"] = (1, 1, inputs, outputs)
            normed |= {} if pre else {f"{name}/shortcut_norm": outputs}
    channels = 4 * width * 2 ** (len(config["stage_depths"]) - 1)
    normed |= {"norm": channels} if pre else {}
    for name, count in normed.items():
        shapes |= {f"{name}/scale": (count,), f"{name}/bias": (count,)}
    if config.get("embed_dim"):
        shapes |= {"projection/kernel": (channels, config["embed_dim"]), "projection/bias": (config["embed_dim"],)}
    return shapes
