"""Codes of masks: those that torch's convolutions give, and what of a mask is in a box."""

import numpy as np
import pytest

from diptych.core.data.bad_example import BadExample
from diptych.core.data.mask_codes import CODES, MaskEncoder, cropped_mask, open_mask_encoder
from diptych.core.weights.npz import write_npz


def archive() -> dict[str, np.ndarray]:
    """A small encoder, as torch names it."""
    widths = (1, 2, 3, 4, 5)
    shapes = {f"encoder.{2 * n}": (widths[n + 1], widths[n], 4, 4) for n in range(4)}
    for block in (8, 9):
        shapes |= {f"encoder.{block}.net.{part}": (5, 5, size, size) for part, size in ((0, 3), (2, 3), (4, 1))}
    shapes["encoder.10"] = (6, 5, 1, 1)
    rng = np.random.default_rng(3)
    arrays = {f"{name}.weight": rng.normal(0, 0.4, shape) for name, shape in shapes.items()}
    arrays |= {f"{name}.bias": rng.normal(0, 0.4, shape[0]) for name, shape in shapes.items()}
    return {name: x.astype("float32") for name, x in (arrays | {CODES: rng.normal(0, 0.3, (12, 6))}).items()}


def test_codes_are_those_of_the_reference(tmp_path):
    torch = pytest.importorskip("torch")
    arrays, masks = archive(), np.random.default_rng(4).random((3, 64, 64)).astype("float32")
    w = {name: torch.from_numpy(x) for name, x in arrays.items()}

    def conv(x, name, **options):
        return torch.nn.functional.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], **options)

    x = 2 * torch.from_numpy(masks)[:, None] - 1
    for number in (0, 2, 4, 6):
        x = torch.relu(conv(x, f"encoder.{number}", stride=2, padding=1))
    for block in ("encoder.8.net", "encoder.9.net"):
        y = torch.relu(conv(x, f"{block}.0", padding=1))
        x = x + conv(torch.relu(conv(y, f"{block}.2", padding=1)), f"{block}.4")
    vectors = conv(x, "encoder.10").permute(0, 2, 3, 1).reshape(-1, 6)
    expected = torch.cdist(vectors, w[CODES]).argmin(dim=1).reshape(3, 16).numpy()
    assert len(set(expected.ravel())) > 3
    write_npz(tmp_path / "vae-oid.npz", arrays)
    assert np.array_equal(open_mask_encoder(str(tmp_path / "vae-oid.npz")).codes(masks), expected)
    with pytest.raises(ValueError, match="encoder.10.bias is missing"):
        MaskEncoder({name: x for name, x in arrays.items() if name != "encoder.10.bias"})


def test_a_mask_is_cut_to_its_box():
    mask = np.zeros((100, 200), bool)
    mask[20:40, 50:150] = True
    whole = cropped_mask(mask, (0.2, 0.25, 0.4, 0.75))
    assert (whole.shape, float(whole.min())) == ((64, 64), 1.0)
    half = cropped_mask(mask, (0.2, 0.25, 0.6, 0.75))
    assert (half[:30].min(), half[34:].max()) == (1.0, 0.0)
    with pytest.raises(BadExample, match="no whole pixel"):
        cropped_mask(mask, (0.2, 0.25, 0.2, 0.75))
