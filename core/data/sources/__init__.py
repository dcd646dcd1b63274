"""Readers of a user's own data: a folder, WebDataset tar shards, Parquet and Arrow tables."""
