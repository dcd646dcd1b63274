"""The decoder of mask codes: big_vision's archive in and out bit for bit, and what torch makes of it."""

import numpy as np
import pytest

from diptych.core.weights.npz import NpzFile, write_npz
from diptych.models import MaskDecoder, MaskDecoderConfig
from tests.models.examples import numpy_of

CONFIG = MaskDecoderConfig(codes=12, code_width=6, width=16, depth=2)


def archive() -> dict[str, np.ndarray]:
    """As torch names a small one, the encoder that nobody reads among it."""
    shapes = {"_vq_vae._embedding": (12, 6), "decoder.0.weight": (16, 6, 1, 1), "decoder.0.bias": (16,)}
    for block in (2, 3):
        for number, size in ((0, 3), (2, 3), (4, 1)):
            shapes |= {f"decoder.{block}.net.{number}.weight": (16, 16, size, size)}
            shapes |= {f"decoder.{block}.net.{number}.bias": (16,)}
    widths = [16, 16, 8, 4, 2]
    for number, (inputs, outputs) in enumerate(zip(widths, widths[1:], strict=False)):
        shapes |= {
            f"decoder.{4 + 2 * number}.weight": (inputs, outputs, 4, 4),
            f"decoder.{4 + 2 * number}.bias": (outputs,),
        }
    shapes |= {"decoder.12.weight": (1, 2, 1, 1), "decoder.12.bias": (1,), "encoder.0.weight": (4, 1, 4, 4)}
    rng = np.random.default_rng(3)
    return {name: rng.normal(0, 0.4, shape).astype("float32") for name, shape in shapes.items()}


def torch_masks(arrays: dict[str, np.ndarray], codes: np.ndarray) -> np.ndarray:
    """big_vision's decoder, as torch's functions compute it."""
    torch = pytest.importorskip("torch")
    f = torch.nn.functional
    w = {name: torch.from_numpy(value) for name, value in arrays.items()}

    def conv(x, name, padding=0):
        return f.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=padding)

    x = w["_vq_vae._embedding"][torch.from_numpy(codes).long()].reshape(-1, 4, 4, 6).permute(0, 3, 1, 2)
    x = f.relu(conv(x, "decoder.0"))
    for block in ("decoder.2.net", "decoder.3.net"):
        y = f.relu(conv(x, f"{block}.0", 1))
        x = x + conv(f.relu(conv(y, f"{block}.2", 1)), f"{block}.4")
    for name in ("decoder.4", "decoder.6", "decoder.8", "decoder.10"):
        x = f.relu(f.conv_transpose2d(x, w[f"{name}.weight"], w[f"{name}.bias"], stride=2, padding=1))
    return conv(x, "decoder.12")[:, 0].numpy()


def test_an_archive_is_read_computed_with_and_written(tmp_path):
    arrays = archive()
    write_npz(tmp_path / "vae-oid.npz", arrays)
    decoder = MaskDecoder.from_preset(tmp_path / "vae-oid.npz")
    assert decoder.config == CONFIG
    codes = np.random.default_rng(4).integers(0, 12, (3, 16)).astype("int32")
    masks = numpy_of(decoder(codes))
    assert masks.shape == (3, 64, 64)
    expected = torch_masks(arrays, codes)  # differences of numbers as large as the largest
    np.testing.assert_allclose(masks, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    decoder.save_to_preset(tmp_path / "out", format="big_vision")
    with NpzFile(tmp_path / "out" / "vae-oid.npz") as files:
        assert files.shapes.keys() == arrays.keys() - {"encoder.0.weight"}
        for name in files.shapes:
            np.testing.assert_array_equal(files.read(name), arrays[name], err_msg=name)
    decoder.save_to_preset(tmp_path / "own", format="diptych")
    np.testing.assert_array_equal(numpy_of(MaskDecoder.from_preset(tmp_path / "own")(codes)), masks)


def test_the_released_sizes_are_known():
    """128 codes of 512, as in vae-oid.npz."""
    from diptych.models.abstract import shapes_only

    with shapes_only():
        decoder = MaskDecoder(MaskDecoderConfig())
    assert decoder.count_params() == sum(
        (128 * 512, 512 * 128 + 128, 2 * (2 * (9 * 128**2 + 128) + 128**2 + 128), 16 * 128 * 128 + 128)
    ) + sum((16 * 128 * 64 + 64, 16 * 64 * 32 + 32, 16 * 32 * 16 + 16, 16 + 1))
    with pytest.raises(ValueError, match="multiple of 8, got 12"):
        MaskDecoderConfig(width=12)
