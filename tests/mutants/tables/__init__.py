"""The known faults, by room."""

from tests.mutants.tables import backends, data, engine, models, training

MUTANTS = data.MUTANTS + training.MUTANTS + models.MUTANTS + engine.MUTANTS + backends.MUTANTS
