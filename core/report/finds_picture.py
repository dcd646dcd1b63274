"""A picture of what a model finds: rows of nearest images of captions, the right ones framed, as a PNG file."""

import io

import numpy as np
from PIL import Image, ImageDraw

from diptych.core.report.run.contents import Samples
from diptych.core.report.run.gallery import choose_queries, nearest_images

FINDS = "finds.png"
SIDE, GAP, FRAME = 72, 12, 4
RIGHT, GROUND = (22, 128, 60), (255, 255, 255)


def finds_png(samples: Samples, *, rows: int = 6, columns: int = 8, seed: int = 0) -> bytes:
    """The nearest images of random captions, a caption a row, nearest first; right ones have a green frame.

    Captions are not drawn: no font has the letters of all languages. `finds_captions` gives them.
    """
    answers = nearest_images(samples, finds_queries(samples, rows=rows, seed=seed), count=columns)
    width = max((len(answer.nearest) for answer in answers), default=1)
    sheet = Image.new("RGB", (GAP + width * (SIDE + GAP), GAP + len(answers) * (SIDE + GAP)), GROUND)
    draw = ImageDraw.Draw(sheet)
    for row, answer in enumerate(answers):
        for column, image in enumerate(answer.nearest):
            left, top = GAP + column * (SIDE + GAP), GAP + row * (SIDE + GAP)
            if samples.image_labels[image] == samples.text_labels[answer.query]:
                box = (left - FRAME, top - FRAME, left + SIDE + FRAME - 1, top + SIDE + FRAME - 1)
                draw.rectangle(box, fill=RIGHT)
            picture = Image.fromarray(np.asarray(samples.thumbnails[image])).resize((SIDE, SIDE))
            sheet.paste(picture, (left, top))
    file = io.BytesIO()
    sheet.save(file, "PNG", optimize=True)
    return file.getvalue()


def finds_queries(samples: Samples, *, rows: int = 6, seed: int = 0) -> list[int]:
    """The captions of `finds_png`'s rows: four tenths in the main language, the others in others."""
    main = max(1, round(0.4 * rows))
    return choose_queries(samples, in_main=main, in_others=rows - main, seed=seed)


def finds_captions(samples: Samples) -> list[str]:
    """What is looked for in each row."""
    return [samples.captions[query] for query in finds_queries(samples)]
