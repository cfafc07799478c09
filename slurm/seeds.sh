#!/usr/bin/env bash
# One run per seed, as a job array: task k trains with seed=k as the run NAME-seed-k, in the W&B group
# NAME. NAME is given by run.name=NAME, else by the config file's name, else it is "default". From the
# repository:
#
#     sbatch [--array=0-9] slurm/seeds.sh [--config FILE] [run.name=NAME] [key=value ...]
#     python -m lenet_dist.report runs/NAME-seed-*
#
# Each task is requeued on its own. For more than one process per run, see slurm/train.sh.

#SBATCH --job-name=lenet-dist-seeds
#SBATCH --array=0-9
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --time=01:00:00
#SBATCH --signal=USR2@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%A_%a.out

if [ ! -f slurm/job.sh ]; then
    echo "error: $PWD is not lenet_dist's repository: submit from there, or with --chdir" >&2
    exit 2
fi
source slurm/job.sh

name=default
previous=
for argument in "$@"; do
    case $previous in --config) name=$(basename "$argument" .yaml) ;; esac
    case $argument in --config=*) name=$(basename "${argument#*=}" .yaml) ;; esac
    previous=$argument
done
for argument in "$@"; do
    case $argument in
        run.name=*) name=${argument#*=} ;;
        seed=*) fail "$argument: each run has a seed of its own" ;;
    esac
done
seed=${SLURM_ARRAY_TASK_ID:-}
[ -n "$seed" ] || fail "not a job array; submit it: sbatch --array=0-9 slurm/seeds.sh"
run_job "wandb.group=$name" "$@" "seed=$seed" "run.name=$name-seed-$seed"
