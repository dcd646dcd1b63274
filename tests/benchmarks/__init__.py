"""Tests of the benchmarks: what they compare and how they say it, not how fast anything is."""
