"""Double heads small enough for every test, with weights and sequences in which everything counts."""

import numpy as np

from diptych.core.data.text_tasks.task import TextTask
from diptych.models.gpt.config import GPTConfig
from diptych.models.gpt.double_heads import GPTDoubleHeads
from diptych.models.gpt.double_heads_config import GPTDoubleHeadsConfig
from tests.models.gpt.small_gpt import given_values

STILL = {"embedding_dropout": 0.0, "attention_dropout": 0.0, "addition_dropout": 0.0}
DECODER = GPTConfig(width=16, depth=2, mlp_dim=64, num_heads=2, vocab_size=23, context_length=12, **STILL)
TASKS = {
    "classification": TextTask(name="a", layout="classification", labels=("no", "yes", "perhaps")),
    "similarity": TextTask(name="b", layout="similarity", scores=(0, 3), metrics=("pearson",)),
    "multiple_choice": TextTask(name="c", layout="multiple_choice", choices=3),
}


def config_of(layout: str, **changed) -> GPTDoubleHeadsConfig:
    return GPTDoubleHeadsConfig(decoder=DECODER, task=TASKS[layout], **{"head_dropout": 0.0, **changed})


def double_heads_of(config: GPTDoubleHeadsConfig, **arguments) -> GPTDoubleHeads:
    return given_values(GPTDoubleHeads(config, **arguments), seed=8)


def sequences_for(config: GPTDoubleHeadsConfig, *, batch: int = 4, length: int = 9, seed: int = 0) -> dict:
    """token_ids, extract and target of sequences of several lengths, whose targets are of several kinds."""
    rng, task, special = np.random.default_rng(seed), config.task, config.special
    token_ids = np.zeros((batch, task.sequences, length), "int32")
    extract = rng.integers(2, length, token_ids.shape[:2]).astype("int32")
    for place in np.ndindex(extract.shape):
        end = extract[place]
        token_ids[place][:end] = [special.start, *rng.integers(1, special.start, end - 1)]
        token_ids[place][end] = special.extract
    target = rng.dirichlet(np.ones(task.outputs), batch).astype("float32")
    target[0] = np.eye(task.outputs)[1]
    return {"token_ids": token_ids, "extract": extract, "target": target}
