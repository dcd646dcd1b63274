"""Self-distillation term: from local views a student predicts what a teacher sees in the whole picture.

Reference: SigLIP 2, section 2.3.
"""

from dataclasses import replace

from keras import ops

from diptych.core.losses.distillation import chunked_distillation
from diptych.core.training.objectives import to_model_range
from diptych.engine.training.terms.matching import Matching, head_part, local_size
from diptych.models.counting import count_flops


class Distillation(Matching):
    """Local views against the global one, over the prototypes of a head on the pooled vector."""

    name = "distillation"
    head = "global_head"
    taught = ("global_head",)

    @classmethod
    def parts(cls, recipe, towers):
        return {"global_head": head_part(recipe, "pooled")}

    def embed(self, seen):
        local = seen.batch["local_views"]
        images, views = local.shape[:2]
        taught = self.taught_features(seen)
        tower, head = seen.model.towers.image_encoder, seen.model.parts[self.head]
        pooled = tower.encode(to_model_range(ops.reshape(local, (images * views, *local.shape[2:]))))["pooled"]
        features = ops.reshape(head.features(pooled), (images, views, -1))
        return self.compared(chunked_distillation, seen.model, features, taught["pooled"])

    @classmethod
    def examples(cls, recipe, planned, preprocess):
        if recipe.distillation.local_views < 1:
            raise ValueError(
                f"Stage {planned.stage.name}: self-distillation needs --local-views of at least 1, got "
                f"{recipe.distillation.local_views}. Without local views leave the loss out."
            )
        return super().examples(recipe, planned, preprocess)

    @classmethod
    def passing_bytes(cls, recipe, planned, rows):
        return cls.logits_bytes(recipe, rows, recipe.distillation.local_views)

    @classmethod
    def flops(cls, recipe, planned, towers):
        options, vision = recipe.distillation, planned.square
        small = replace(vision, image_size=local_size(recipe, planned))
        local = count_flops(replace(planned.config, vision=small), batch_size=planned.batch_size)["image"]
        head = planned.parts["global_head"].flops(planned.config)
        return 3 * options.local_views * (local + head) + head
