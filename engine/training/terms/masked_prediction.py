"""Masked-prediction term: a student predicts the teacher's tokens of patches that are hidden from it.

Reference: SigLIP 2, section 2.3.
"""

from diptych.core.losses.masked_prediction import chunked_masked_prediction, gather_patches, patch_mask
from diptych.engine.training.terms.matching import Matching, head_part
from diptych.models.siglip.parts import MaskTokenPart


class MaskedPrediction(Matching):
    """The hidden patches of the global view, over the prototypes of a head on the tokens."""

    name = "masked_prediction"
    head = "patch_head"
    taught = ("patch_head",)

    @classmethod
    def parts(cls, recipe, towers):
        return {"patch_head": head_part(recipe, "tokens"), "mask_token": MaskTokenPart()}

    def embed(self, seen):
        taught, places = self.taught_features(seen), seen.batch["masked_patches"]
        view, tower = self.global_view(seen), seen.model.towers.image_encoder
        masked = patch_mask(places, taught["tokens"].shape[1])
        hidden = tower.encode(view, mask_token=seen.model.parts["mask_token"].token, masked=masked)
        features = seen.model.parts[self.head].features(gather_patches(hidden["tokens"], places))
        return self.compared(chunked_masked_prediction, seen.model, features, gather_patches(taught["tokens"], places))

    @classmethod
    def examples(cls, recipe, planned, preprocess):
        made = super().examples(recipe, planned, preprocess)
        if not made["views"].masked_count:
            raise ValueError(
                f"Stage {planned.stage.name}: --mask-ratio {recipe.distillation.mask_ratio} hides none of "
                f"{planned.square.num_patches} patches, and masked prediction needs one at least. Raise it, or leave "
                "the loss out."
            )
        return made

    @classmethod
    def passing_bytes(cls, recipe, planned, rows):
        return cls.logits_bytes(recipe, rows * cls.hidden(recipe, planned), 1)

    @classmethod
    def hidden(cls, recipe, planned) -> int:
        """Patches of a picture that the student does not see."""
        return int(recipe.distillation.mask_ratio * planned.square.num_patches)

    @classmethod
    def flops(cls, recipe, planned, towers):
        hidden = cls.hidden(recipe, planned)
        head = planned.parts["patch_head"].flops(planned.config)
        return 3 * (towers.image + hidden * head) + hidden * head
