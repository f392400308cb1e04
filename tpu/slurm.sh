#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A run on GPU nodes under SLURM: one process a node, each with all of its GPUs.
#
#     sbatch --nodes=2 tpu/slurm.sh itx train RECIPE --lock LOCK --run_dir SHARED/runs/one --mesh.fsdp=-1
#
# Run it from a clone that all nodes see, set up by `uv sync --extra cuda`. SLURM tells each process
# of the others, and JAX asks it (itx/hosts.py).
#SBATCH --job-name=itx
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --exclusive
#SBATCH --time=24:00:00
# SIGTERM two minutes before the time is over: the run saves, ends with 143, and is queued again
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%x-%j.txt
set -euo pipefail

[[ $# -gt 0 ]] || { echo "slurm.sh: give the words of the run: sbatch tpu/slurm.sh itx train …" >&2; exit 2; }
cd "${SLURM_SUBMIT_DIR:?slurm.sh is for sbatch; without SLURM say the words themselves}"
export PATH=$PWD/.venv/bin:$PATH
# compiled programs outlive the job
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$PWD/cache/compiled}

# --kill-on-bad-exit: an error on one node ends all; SIGTERM, which comes to this shell, goes to all
srun --kill-on-bad-exit=1 "$@" &
step=$!
told=0
trap 'told=1; kill -TERM "$step"' TERM
code=0
wait "$step" || code=$?
if ((told)); then  # the wait above ended with the signal, not with the run
    code=0
    wait "$step" || code=$?
fi
if ((code == 143)); then
    restarts=${SLURM_RESTART_COUNT:-0}
    if ((restarts < ${ITX_REQUEUES:-50})); then
        echo "slurm.sh: preempted or out of time; queued again ($restarts times so far)" >&2
        scontrol requeue "$SLURM_JOB_ID"
    else
        echo "slurm.sh: queued again $restarts times already (ITX_REQUEUES); the same command goes on" >&2
    fi
fi
exit "$code"
