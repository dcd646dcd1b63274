"""Scalars for TensorBoard, written without TensorBoard: an event file is a sequence of framed protocol buffers.

Packages that write these files import torch where they find it, which costs seconds and memory in a run on another
backend. The few fields used here are those of tensorflow/core/util/event.proto and
tensorflow/core/framework/summary.proto.
"""

import numbers
import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

_START_OF_SESSION = 1  # SessionLog.START


class TensorBoard:
    """Writes the numbers of each row as scalars into `folder`; TensorBoard then hides what a killed run wrote after
    `resume_step`.
    """

    def __init__(self, folder: str | Path, *, resume_step: int = 0):
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files of a folder in the order of their names and ignores one that sorts before those it
        # knows.
        seconds, nanoseconds = divmod(time.time_ns(), 10**9)
        name = f"events.out.tfevents.{seconds:010d}.{nanoseconds:09d}.{socket.gethostname()}.{os.getpid()}"
        self._file = open(folder / name, "xb")  # noqa: SIM115 (open for as long as the run)
        self._write(_text(3, "brain.Event:2"))
        self._write(_varint(2, resume_step + 1) + _message(7, _varint(1, _START_OF_SESSION)))

    def write(self, step: int, values: Mapping[str, object]) -> None:
        """Add every value that is one number; other values stay in the metrics file only."""
        scalars = b""
        for name, value in values.items():
            value = value.item() if hasattr(value, "item") else value
            if isinstance(value, numbers.Real):
                scalars += _message(1, _text(1, name) + _float(2, float(value)))
        self._write(_varint(2, int(step)) + _message(5, scalars))

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._file.close()

    def _write(self, event: bytes) -> None:
        """Append one event, stamped with the time, as length, checksum of the length, event, checksum of the event."""
        event = _double(1, time.time()) + event
        length = struct.pack("<Q", len(event))
        self._file.write(length + _checksum(length) + event + _checksum(event))
        self._file.flush()


def _varint(field: int, value: int) -> bytes:
    return bytes([field << 3]) + _digits(value)


def _double(field: int, value: float) -> bytes:
    return bytes([field << 3 | 1]) + struct.pack("<d", value)


def _float(field: int, value: float) -> bytes:
    try:
        return bytes([field << 3 | 5]) + struct.pack("<f", value)
    except OverflowError:  # beyond float32
        return _float(field, float("inf") if value > 0 else float("-inf"))


def _text(field: int, value: str) -> bytes:
    return _message(field, value.encode("utf-8", "backslashreplace"))


def _message(field: int, value: bytes) -> bytes:
    return bytes([field << 3 | 2]) + _digits(len(value)) + value


def _digits(value: int) -> bytes:
    """A non-negative integer in base 128, lowest digit first, the high bit set on all but the last."""
    digits = bytearray()
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])


def _checksum(data: bytes) -> bytes:
    """The masked CRC-32C of the TFRecord format."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC_TABLE[(crc ^ byte) & 255]
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _crc_entry(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value


_CRC_TABLE = [_crc_entry(value) for value in range(256)]
