"""Detectors for `label_regions`: OWL-ViT and OWLv2 through transformers, and a light one for drawings on plain grounds.

OWL-ViT: Minderer et al. 2022, arXiv 2205.06230. OWLv2: Minderer et al. 2023, arXiv 2306.09683.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from diptych.core.data.records import Box
from diptych.core.data.regions import box_iou
from diptych.core.data.sources.region_labelling import Detection

Scorer = Callable[[Sequence[np.ndarray], Sequence[str]], np.ndarray]

_KINDS = ("owlvit", "owlv2")
_PHRASES_AT_ONCE = 128
_SAME = 0.7  # intersection over union from which two boxes of one phrase are one thing
_LEVELS = 24  # of 256, by which the ground's colours are told apart
_LEAST_SHARE = 0.02  # of the border, from which a colour is one of the ground's


class OwlDetector:
    """An OWL-ViT or OWLv2 checkpoint in transformers' layout; needs `pip install transformers torch`.

    Each of the model's boxes is given to the phrase that fits it best, and of boxes of one phrase that are nearly the
    same the surest stays.

    Args:
        model: a folder or a name that transformers knows, such as google/owlv2-base-patch16-ensemble.
        least_score: below which boxes are left out at once.
        device: where it runs, in the framework's words.

    Raises:
        ImportError: transformers is not installed.
        ValueError: the model is of another kind.
    """

    def __init__(self, model: str, *, least_score: float = 0.1, device: str = "cpu"):
        try:
            import transformers
        except ImportError:
            raise ImportError(
                "detecting with OWL-ViT or OWLv2 needs transformers: pip install transformers torch"
            ) from None
        config = transformers.AutoConfig.from_pretrained(model)
        if config.model_type not in _KINDS:
            raise ValueError(f"{model} is a {config.model_type}, expected a checkpoint of {' or '.join(_KINDS)}")
        loaded = transformers.AutoModelForZeroShotObjectDetection.from_pretrained(model, dtype="float32")
        self._processor: Any = transformers.AutoProcessor.from_pretrained(model)
        self._model: Any = loaded.eval().requires_grad_(False).to(device)
        self._pads = config.model_type == "owlv2"
        self._length = config.text_config.max_position_embeddings
        self._device = device
        self.least_score = least_score

    def detect(self, pictures: Sequence[np.ndarray], phrases: Sequence[Sequence[str]]) -> list[list[Detection]]:
        """What is seen in each picture, uint8 [h, w, 3], of its phrases, the surest first."""
        logits: list[list[np.ndarray]] = [[] for _ in pictures]
        boxes = [np.zeros((0, 4))] * len(pictures)
        for begin in range(0, max(map(len, phrases), default=0), _PHRASES_AT_ONCE):
            asked = {
                place: list(all_of_one[begin : begin + _PHRASES_AT_ONCE])
                for place, all_of_one in enumerate(phrases)
                if len(all_of_one) > begin
            }
            inputs = self._processor(
                text=list(asked.values()),
                images=[np.array(pictures[place]) for place in asked],
                return_tensors="pt",
                padding="max_length",
                max_length=self._length,
                truncation=True,
            )
            outputs = self._model(**inputs.to(self._device))
            for row, (place, names) in enumerate(asked.items()):
                # Pictures with fewer phrases than others are filled up with empty ones.
                logits[place].append(outputs.logits[row, :, : len(names)].cpu().numpy().astype(np.float64))
                boxes[place] = outputs.pred_boxes[row].cpu().numpy().astype(np.float64)
        return [self._kept(*of_one) for of_one in zip(pictures, phrases, logits, boxes, strict=True)]

    def _kept(
        self, pixels: np.ndarray, phrases: Sequence[str], logits: Sequence[np.ndarray], boxes: np.ndarray
    ) -> list[Detection]:
        """The detections of one picture, from the logits [boxes, phrases] of each turn."""
        if not logits:
            return []
        all_logits = np.concatenate(logits, axis=1)
        best = all_logits.argmax(axis=1)
        scores = 1 / (1 + np.exp(-all_logits.max(axis=1)))
        boxes = owl_boxes(boxes, *pixels.shape[:2], padded=self._pads)
        found = [
            Detection(tuple(boxes[row].tolist()), phrases[best[row]], float(scores[row]))
            for row in np.flatnonzero((scores >= self.least_score) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1))
        ]
        return surest(found)

    def fingerprint(self) -> str:
        """Hash of the model's settings and weights, of the processor's settings, and of the least score."""
        digest = hashlib.sha256(repr((self._model.config.to_dict(), self.least_score)).encode())
        digest.update(json.dumps(self._processor.image_processor.to_dict(), sort_keys=True, default=str).encode())
        for name, weights in sorted(self._model.state_dict().items()):
            digest.update(name.encode() + weights.cpu().numpy().tobytes())
        return digest.hexdigest()


def owl_boxes(boxes: np.ndarray, height: int, width: int, *, padded: bool) -> np.ndarray:
    """(x centre, y centre, width, height) [n, 4] as the model gives them -> (ymin, xmin, ymax, xmax) in [0, 1] of the
    picture.

    Args:
        padded: whether they are relative to a square that the picture was padded to at the right or the bottom (OWLv2).
    """
    centres, sizes = boxes[:, 1::-1], boxes[:, 3:1:-1]
    corners = np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1)
    if padded:
        corners = corners * max(height, width) / np.array([height, width, height, width])
    return np.clip(corners, 0.0, 1.0)


def surest(detections: Sequence[Detection]) -> list[Detection]:
    """The surest of each set of nearly equal boxes of one phrase, the surest first."""
    kept: list[Detection] = []
    for one in sorted(detections, key=lambda detection: -detection.score):
        rivals = [other.box for other in kept if other.phrase == one.phrase]
        if not rivals or box_iou(np.array(rivals), np.array(one.box)).max() < _SAME:
            kept.append(one)
    return kept


class SegmentDetector:
    """Finds what differs from the ground, as connected parts, and asks a scorer what each shows.

    The ground has the colours of the picture's border: a flat colour, stripes, a gradient, not a photograph.

    Args:
        scorer: (crops uint8 [h, w, 3], phrases) -> scores [crops, phrases] in [0, 1]; a zero-shot classifier, say.
        scorer_name: what the scorer is, for the fingerprint: another name for another scorer.
        tolerance: distance in RGB from the ground's colours up to which a pixel belongs to it.
        least_area: of a part, relative to the picture.
        gap: pixels that parts may be apart and still be one.
    """

    def __init__(
        self,
        scorer: Scorer,
        scorer_name: str,
        *,
        tolerance: float = 40.0,
        least_area: float = 0.004,
        gap: int = 1,
    ):
        self.scorer, self.scorer_name = scorer, scorer_name
        self.tolerance, self.least_area, self.gap = tolerance, least_area, gap

    def detect(self, pictures: Sequence[np.ndarray], phrases: Sequence[Sequence[str]]) -> list[list[Detection]]:
        """Each part of each picture with the one of its phrases that fits best, the surest first."""
        return [self._detected(*of_one) for of_one in zip(pictures, phrases, strict=True)]

    def _detected(self, pixels: np.ndarray, phrases: Sequence[str]) -> list[Detection]:
        boxes = self.boxes(pixels)
        if not boxes or not phrases:
            return []
        height, width = pixels.shape[:2]
        corners = np.round(np.array(boxes) * [height, width, height, width]).astype(int)
        scores = np.asarray(
            self.scorer([pixels[top:bottom, left:right] for top, left, bottom, right in corners], phrases)
        )
        if scores.shape != (len(boxes), len(phrases)):
            raise ValueError(
                f"the scorer {self.scorer_name} gave scores {list(scores.shape)}, expected {[len(boxes), len(phrases)]}"
            )
        best = scores.argmax(axis=1)
        return surest(
            [
                Detection(box, phrases[most], float(row[most]))
                for box, row, most in zip(boxes, scores, best, strict=True)
            ]
        )

    def boxes(self, pixels: np.ndarray) -> list[Box]:
        """(ymin, xmin, ymax, xmax) in [0, 1] of the parts that differ from the ground, from top to bottom."""
        height, width = pixels.shape[:2]
        differs = _distance_to_ground(pixels) > self.tolerance
        parts = connected_parts(_grown(differs, self.gap))
        found = []
        for number in range(1, int(parts.max()) + 1):
            part = (parts == number) & differs
            if part.sum() >= self.least_area * part.size:
                rows, columns = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
                found.append((rows[0] / height, columns[0] / width, (rows[-1] + 1) / height, (columns[-1] + 1) / width))
        return found

    def fingerprint(self) -> str:
        """Hash of the settings and of the scorer's name."""
        settings = ("segments", self.scorer_name, self.tolerance, self.least_area, self.gap)
        return hashlib.sha256(repr(settings).encode()).hexdigest()


def connected_parts(mask: np.ndarray) -> np.ndarray:
    """Numbers of the 4-connected parts of bool [h, w], int64 [h, w]: 0 outside, then 1, 2, ... in reading order."""
    padded = np.zeros((mask.shape[0], mask.shape[1] + 2), np.int8)
    padded[:, 1:-1] = mask
    turns = np.diff(padded, axis=1)
    rows, begins = np.nonzero(turns == 1)
    ends = np.nonzero(turns == -1)[1]
    parent = list(range(len(rows)))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = run = parent[parent[run]]
        return run

    firsts = np.searchsorted(rows, np.arange(mask.shape[0] + 1)).tolist()
    for row in range(1, mask.shape[0]):
        above, below = firsts[row - 1], firsts[row]
        while above < firsts[row] and below < firsts[row + 1]:
            if begins[above] < ends[below] and begins[below] < ends[above]:
                one, other = sorted((root(above), root(below)))
                parent[other] = one
            if ends[above] < ends[below]:
                above += 1
            else:
                below += 1
    parts = np.zeros(mask.shape, np.int64)
    numbers: dict[int, int] = {}
    for run, (row, begin, end) in enumerate(zip(rows.tolist(), begins, ends, strict=True)):
        parts[row, begin:end] = numbers.setdefault(root(run), len(numbers) + 1)
    return parts


def _distance_to_ground(pixels: np.ndarray) -> np.ndarray:
    """Distance in RGB to the nearest colour that is common along the border, [h, w]."""
    colours = pixels.astype(np.float64)
    border = np.concatenate([colours[0], colours[-1], colours[:, 0], colours[:, -1]])
    _, bins, counts = np.unique(border // _LEVELS, axis=0, return_inverse=True, return_counts=True)
    bins = bins.reshape(-1)
    common = np.flatnonzero(counts >= _LEAST_SHARE * len(border))
    ground = [border[bins == number].mean(axis=0) for number in common] or [np.median(border, axis=0)]
    return np.sqrt(np.min([((colours - colour) ** 2).sum(axis=-1) for colour in ground], axis=0))


def _grown(mask: np.ndarray, reach: int) -> np.ndarray:
    """The pixels up to `reach` steps down, up, left or right from those of a mask."""
    for _ in range(reach):
        padded = np.pad(mask, 1)
        mask = mask | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    return mask
