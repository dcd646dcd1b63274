#!/usr/bin/env bash
# A run on jax over several machines of a Slurm cluster, a process a machine:
#
#   sbatch --nodes 4 --gpus-per-node 8 examples/launch/slurm_jax.sh --train-data /data/pairs/{000..999}.tar
#
# jax learns from Slurm which process is which. Slurm's SIGTERM comes two minutes before the time is over, so that the run
# saves and leaves; the job is then put into the queue again and goes on.
#SBATCH --job-name=siglip
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
#SBATCH --signal=TERM@120
set -euo pipefail

export KERAS_BACKEND=jax
srun python -m diptych.recipes.siglip --data-parallel "${SLURM_GPUS_ON_NODE:-1}" "$@" || status=$?
if [ "${status:-0}" = 143 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "${status:-0}"
