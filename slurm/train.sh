#!/usr/bin/env bash
# Train on a SLURM cluster, requeued until the run is complete. From the repository:
#
#     sbatch slurm/train.sh [--config FILE] [key=value ...]
#
# The block below requests one process with four cores. For more, use sbatch's flags before the script:
#
#     sbatch --nodes=2 slurm/train.sh ...                                      2 nodes, CPUs
#     sbatch --gpus-per-node=1 slurm/train.sh ...                              1 GPU
#     sbatch --nodes=2 --gpus-per-node=8 --ntasks-per-node=8 slurm/train.sh    2 x 8 GPUs
#
# One task is one process of the job, so request as many tasks per node as GPUs. The number of processes
# does not change the bits. slurm/site.sh holds what differs from site to site; slurm/README.md explains
# the rest.

#SBATCH --job-name=lenet-dist
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --time=01:00:00
#SBATCH --signal=USR2@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.out

if [ ! -f slurm/job.sh ]; then
    echo "error: $PWD is not lenet_dist's repository: submit from there, or with --chdir" >&2
    exit 2
fi
source slurm/job.sh
run_job "$@"
