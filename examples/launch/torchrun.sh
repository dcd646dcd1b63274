#!/usr/bin/env bash
# A run on torch over several machines with the same GPUs. On each of them:
#
#   MACHINES=4 MACHINE=0 FIRST=gpu-0.example.org examples/launch/torchrun.sh --train-data /data/pairs/{000..999}.tar
#
# MACHINE counts from 0, FIRST is the name of machine 0; what follows goes to the recipe. Options, data and --run-dir must
# be the same everywhere, the last two on a file system that all machines see.
set -euo pipefail

export KERAS_BACKEND=torch
exec torchrun \
    --nnodes "${MACHINES:?how many machines there are}" \
    --node-rank "${MACHINE:?which one this is, from 0}" \
    --master-addr "${FIRST:?the name of machine 0}" \
    --master-port "${PORT:-29500}" \
    --nproc-per-node "${GPUS:-gpu}" \
    --max-restarts "${RESTARTS:-3}" \
    -m diptych.recipes.siglip "$@"
