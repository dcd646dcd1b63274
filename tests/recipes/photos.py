"""A small folder of pictures with captions, as a user might have one."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"red": (220, 40, 40), "green": (40, 170, 60), "blue": (40, 70, 220), "yellow": (240, 210, 50)}
SHAPES = ("square", "bar", "pillar", "frame")


def write_photos(folder: Path, count: int) -> Path:
    """Pictures of coloured shapes on grey, each with its caption in captions.jsonl."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for index in range(count):
        colour, shape = list(COLOURS)[index % 4], SHAPES[index // 4 % 4]
        pixels = np.full((32, 32, 3), rng.integers(90, 150), np.uint8)
        height, width = {"square": (14, 14), "bar": (6, 24), "pillar": (24, 6), "frame": (22, 22)}[shape]
        top, left = rng.integers(0, 32 - height), rng.integers(0, 32 - width)
        pixels[top : top + height, left : left + width] = COLOURS[colour]
        if shape == "frame":
            pixels[top + 4 : top + height - 4, left + 4 : left + width - 4] = 128
        Image.fromarray(pixels).save(folder / f"{index:03d}.png")
        rows.append({"file_name": f"{index:03d}.png", "caption": f"a {colour} {shape} number {index}"})
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
