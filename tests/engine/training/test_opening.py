"""The end of a run's opening: where it is, by the examples themselves, and what is said of it."""

from dataclasses import replace

from diptych.core.data.sampling import Place
from diptych.engine.training.opening import opening_end, opening_over, opening_planned
from diptych.engine.training.run_plan import plan_run
from diptych.engine.training.terms import TERMS
from diptych.recipes.siglip import siglip


def test_the_default_run_says_where_its_examples_change():
    plan = plan_run(siglip(), TERMS)
    planned, preprocess = plan.planned["training"], plan.examples["training"]
    end = opening_end(planned, preprocess)
    source = plan.data_set.sources(0).train

    def captions(batch: int) -> int:
        place = Place(seed=0, example=batch * planned.loaded, batch_size=planned.loaded)
        return len(preprocess(source.record(0), source, place)[0]["text"])

    assert (captions(end - 1), captions(end)) == (1, 6)
    assert f"up to {end * 128:,} examples" in opening_planned(planned, preprocess)
    assert "6 captions in all languages: the loss jumps up" in opening_over(planned, preprocess)[end]


def test_a_run_without_an_opening_says_nothing_of_one():
    plan = plan_run(siglip(), TERMS)
    planned, preprocess = plan.planned["training"], replace(plan.examples["training"], opening_examples=0)
    assert opening_planned(planned, preprocess) is None
    assert opening_over(planned, preprocess) == {}
