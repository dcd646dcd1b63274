"""Pictures and captions as strangers send them: what each is, and what has to become of it."""

import struct
import zlib
from functools import cache

import numpy as np
from PIL import Image

from tests.core.data.pictures import encoded, pixels


def _png(width: int, height: int, colour_type: int, bits: int, rows: bytes, *chunks: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    parts = [_chunk(b"IHDR", header), *chunks, _chunk(b"IDAT", rows), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb_png(side: int, rows: int) -> bytes:
    """A 1-bit PNG that says it has `side` x `side` pixels and packs `rows` rows of zeros tightly."""
    packer = zlib.compressobj(1)
    row = bytes(1 + (side + 7) // 8)
    return _png(side, side, 0, 1, packer.compress(row * rows) + packer.flush())


def jpeg_of_scans(side: int, more: int) -> bytes:
    """A progressive JPEG of ten scans, the last of which is repeated: valid, small and slow."""
    data = encoded(np.full((side, side, 3), (200, 30, 30), np.uint8), "JPEG", progressive=True, quality=50)
    last, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    return data[:end] + data[last:end] * more + data[end:]


def _jpeg() -> bytes:
    return encoded(np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8), "JPEG")


def _cut(data: bytes, share: float = 0.5) -> bytes:
    return data[: int(len(data) * share)]


@cache
def refused_pictures() -> dict[str, tuple[bytes, str]]:
    """Name -> (file, reason for which it has to be refused)."""
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    bitmap = b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0)
    text_bomb = _chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(20_000_000), 1))
    return {
        "empty file": (b"", "image_empty"),
        "half a JPEG": (_cut(_jpeg()), "image_truncated"),
        "half a PNG": (_cut(encoded(noise)), "image_truncated"),
        "half a WebP": (_cut(encoded(noise, "WEBP", quality=90)), "image_damaged"),
        "half a GIF": (_cut(encoded(noise, "GIF")), "image_truncated"),
        "PNG of 30000 x 30000": (bomb_png(30_000, rows=100), "image_too_large"),
        "PNG of 13000 x 13000": (bomb_png(13_000, rows=13_000), "image_too_large"),
        "PNG of 40000 x 1": (_png(40_000, 1, 0, 1, zlib.compress(bytes(5001))), "image_too_large"),
        "BMP of 60000 x 60000 in 54 bytes": (bitmap, "image_format"),
        "BMP": (encoded(noise, "BMP"), "image_format"),
        "TIFF": (encoded(noise, "TIFF"), "image_format"),
        "SVG that reads a file": (svg, "image_format"),
        "HTML": (b"<!doctype html><title>404</title>", "image_format"),
        "random bytes": (np.random.default_rng(2).bytes(4096), "image_format"),
        "PNG with 20 MB of compressed text": (
            _png(8, 8, 0, 8, zlib.compress(bytes(8 * 9)), text_bomb),
            "image_damaged",
        ),
        "PNG without pixels": (_png(8, 8, 0, 8, b""), "image_truncated"),
        "JPEG of 1,010 scans": (jpeg_of_scans(3200, more=1000), "image_too_slow"),
        "JPEG of 60 large scans": (jpeg_of_scans(6400, more=50), "image_too_slow"),
        "JPEG of a million comments": (_jpeg()[:2] + b"\xff\xfe\0\3a" * 1_000_000 + _jpeg()[2:], "image_too_slow"),
        "PNG of half a million chunks": (
            _png(8, 8, 0, 8, zlib.compress(bytes(72)), _chunk(b"teSt", b"") * 500_000),
            "image_too_slow",
        ),
        "GIF of a million comments": (encoded(noise, "GIF")[:13] + b"!\xfe\1a\0" * 1_000_000, "image_too_slow"),
        "PNG of 0 x 0": (_png(0, 0, 0, 8, zlib.compress(b"")), "image_damaged"),
        "three bytes of a JPEG": (b"\xff\xd8\xff damaged", "image_damaged"),
        "a PNG cut in its header": (encoded(noise)[:13], "image_damaged"),
        "a WebP cut in its header": (encoded(noise, "WEBP")[:14], "image_damaged"),
        "a GIF cut in its header": (encoded(noise, "GIF")[:8], "image_damaged"),
    }


@cache
def accepted_pictures() -> dict[str, bytes]:
    """Odd but good files: whatever the mode, they decode to [24, 32, 3] of roughly the same colours as `pixels(3)`."""
    rgb = Image.fromarray(pixels(3))
    turned = rgb.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    broken_exif = encoded(rgb, "JPEG", quality=95, exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    other = Image.fromarray(pixels(4))
    return {
        "PNG": encoded(rgb),
        "JPEG": encoded(rgb, "JPEG", quality=95),
        "WebP": encoded(rgb, "WEBP", quality=95),
        "JPEG on its side by EXIF": encoded(turned, "JPEG", quality=95, exif=exif),
        "JPEG with broken EXIF": broken_exif,
        "CMYK JPEG": encoded(rgb.convert("CMYK"), "JPEG", quality=95),
        "palette PNG": encoded(rgb.quantize(256)),
        "RGBA PNG": encoded(rgb.convert("RGBA")),
        "animated GIF": encoded(rgb, "GIF", save_all=True, append_images=[other]),
        "animated WebP": encoded(rgb, "WEBP", save_all=True, append_images=[other], quality=95),
        "interlaced GIF": encoded(rgb, "GIF", interlace=1),
        "JPEG with restarts": encoded(rgb, "JPEG", restart_marker_blocks=1, quality=95),
        "progressive JPEG with a thumbnail in its EXIF": encoded(
            rgb, "JPEG", progressive=True, quality=95, exif=b"Exif\0\0" + b"\xff\xda" * 1000
        ),
        "progressive JPEG": encoded(rgb, "JPEG", progressive=True, quality=95),
    }


def refused_captions() -> dict[str, tuple[object, str]]:
    """Name -> (caption, reason for which it has to be refused)."""
    return {
        "empty": ("", "caption_empty"),
        "white space": (" \t\r\n\u3000\u2028", "caption_empty"),
        "byte order mark alone": ("\ufeff", "caption_empty"),
        "zero-width characters alone": ("\u200b\u200d\u2060", "caption_empty"),
        "combining marks alone": ("\u0301" * 50, "caption_empty"),
        "100,000 combining marks": ("e" + "\u0301" * 100_000, "caption_too_long"),
        "a megabyte": ("long " * 200_000, "caption_too_long"),
        "a megabyte of bytes": (b"long " * 200_000, "caption_too_long"),
        "invalid UTF-8": (b"caf\xe9", "caption_not_utf8"),
        "NUL": ("a\0b", "caption_nul"),
        "lone surrogate": ("a\ud83d", "caption_surrogate"),
        "number": (7, "caption_not_text"),
        "nothing": (None, "caption_not_text"),
    }


def cleaned_captions() -> dict[str, tuple[str | bytes, str]]:
    """Name -> (caption, what has to become of it)."""
    return {
        "plain": ("a red fox", "a red fox"),
        "byte order mark": ("\ufeffa red fox", "a red fox"),
        "white space": ("  a\tred \n fox\u3000", "a red fox"),
        "zero-width space": ("a\u200b red fox", "a red fox"),
        "direction override": ("a \u202ered\u202c fox", "a red fox"),
        "control characters": ("a\x07red\x1bfox", "a red fox"),
        "UTF-8 bytes": ("ein Füchslein".encode(), "ein Füchslein"),
        "Persian with a joiner": ("می\u200cخواهم", "می\u200cخواهم"),
        "emoji joined of parts": ("\U0001f468\u200d\U0001f680", "\U0001f468\u200d\U0001f680"),
        "right to left": ("شعلب احمر", "شعلب احمر"),
        "stacked marks": ("e" + "\u0301" * 5000, "e" + "\u0301" * 12),
        "accents": ("cafe\u0301", "cafe\u0301"),
    }
