"""The first minutes on a GPU: what is worth knowing, asked in the order of its worth, each answer kept at once.

__main__      the command: runs the stages, keeps logs and summary up to date
stages        the stages and the sizes of a GPU and of a rehearsal
supervision   a stage as a process group with a limit
stage         the process of a stage
journal       results.jsonl
judge         a kernel's block against float64
ceilings      plain products and copies
block         the Triton kernel alone, and in a sweep, with every tile
mosaic        the Mosaic kernel alone, with every tile
losses        the whole loss beside others: large, huge, small, of other widths
checks        the tests that need a GPU
summary       the tables, and what the figures are to reach
wheels        what a machine without a network lacks
"""
