"""Known faults, and what makes them one at a time to see that the tests find them: `python -m tests.mutants`."""
