"""Referring expressions as questions: RefCOCO, RefCOCO+ and RefCOCOg ask where a thing is, or for its mask.

detect the man in red      <loc0112><loc0051><loc0898><loc0630> the man in red
segment the man in red     <loc0112><loc0051><loc0898><loc0630><seg004>...(16 codes) the man in red
"""

from collections.abc import Sequence
from pathlib import Path

from diptych.core.data.detections import code_text, place_text
from diptych.core.data.mask_codes import cropped_mask, open_mask_encoder
from diptych.core.data.records import BadExample, Caption, Record
from diptych.core.data.sources.questions import Judging, Question, Questions
from diptych.core.data.sources.refcoco import Referral

BOXES = Judging(metrics=("boxes",))


class ReferringQuestions(Questions):
    """Phrases, each of which is asked for.

    Args:
        referrals: of one split.
        masks: big_vision's vae-oid.npz; with it the masks are asked for, too.
        name, folder, fingerprint: of `Questions`.

    Raises:
        FileNotFoundError, ValueError: for `masks` that are no encoder.
    """

    def __init__(self, referrals: Sequence[Referral], *, masks: Path | None, name: str, folder: Path, fingerprint: str):
        verb = "detect" if masks is None else "segment"
        questions = [
            Question(
                images=(each.image,),
                prompt=f"{verb} {each.phrase}",
                answers=(f"{place_text(each.box)} {each.phrase}",),
            )
            for each in referrals
        ]
        super().__init__(questions, name=name, folder=folder, fingerprint=f"{fingerprint} {verb}", judged=BOXES)
        self._masks = None if masks is None else str(masks)
        self._referrals = referrals if masks else ()
        if self._masks:
            open_mask_encoder(self._masks)

    def record(self, index: int) -> Record:
        """As `Questions.record`; a mask's codes are computed here. Raises `BadExample` for a thing without outline."""
        record = super().record(index)
        if self._masks is None:
            return record
        referral = self._referrals[index]
        if referral.outline is None:
            raise BadExample("region_outline", "the data have no outline of it, and its mask is asked for")
        mask = cropped_mask(referral.outline.mask(), referral.box)
        codes = open_mask_encoder(self._masks).codes(mask[None])[0]
        answer = f"{place_text(referral.box)}{code_text(codes)} {referral.phrase}"
        return Record(record.key, record.images, (Caption(answer),), prompt=record.prompt)
