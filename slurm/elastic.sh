#!/usr/bin/env bash
# Train on a SLURM cluster, and continue with the remaining nodes when one is lost. From the
# repository:
#
#     sbatch --nodes=4 slurm/elastic.sh [--config FILE] [key=value ...]
#
# Each node runs a launcher (torchrun) with one process, or with one per GPU of --gpus-per-node. A lost
# node does not end the job. When it is back, or another node is free, add it to the job (here job 12):
#
#     sbatch --nodes=1 --export=ALL,JOIN=12 slurm/elastic.sh [--config FILE] [key=value ...]
#
# The launchers meet on the job's first node. If that node is lost, the batch script is lost with it, and
# SLURM treats the job as running until somebody runs: scontrol requeue JOB.
# docs/elastic.md explains the rest.

#SBATCH --job-name=lenet-dist
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --time=01:00:00
#SBATCH --signal=B:USR2@120
#SBATCH --no-kill
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.out

if [ ! -f slurm/job.sh ]; then
    echo "error: $PWD is not lenet_dist's repository: submit from there, or with --chdir" >&2
    exit 2
fi
source slurm/job.sh
prepare "$@"

address_of() {
    scontrol --oneliner show node "$1" | tr ' ' '\n' | sed -n 's/^NodeAddr=//p'
}

is_of_the_job() {
    scontrol show hostnames "$(squeue --noheader --jobs="$job" --format=%N)" | grep -qx "$1"
}

# The job on whose first node the launchers meet: this one, or the one that it joins.
meeting=${JOIN:-$SLURM_JOB_ID}
first=$(squeue --noheader --jobs="$meeting" --format=%B)
[ -n "$first" ] || fail "JOIN=$meeting: no such job is running"
port=$((15000 + meeting * 31 % 15000))
if [ -z "${JOIN:-}" ]; then
    "${PYTHON[@]}" -m lenet_dist.rendezvous --port="$port" &
    trap "kill $!" EXIT
fi

# torchrun would share a store between its rounds that launchers which join later do not find.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
conf=is_host=false,last_call_timeout=3,keep_alive_interval=2,keep_alive_max_attempt=3,join_timeout=120
conf+=,read_timeout=30
meeting_at=$(address_of "$first")

# Start a node's launcher in the background; its process id is then ${launcher[NODE]}.
launch() {
    local node=$1
    shift
    srun --nodes=1 --ntasks=1 --nodelist="$node" --no-kill --overlap \
        --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" "${SRUN_FLAGS[@]}" \
        "${PYTHON[@]}" -m torch.distributed.run --nnodes="1:1000" \
        --nproc-per-node="${SLURM_GPUS_ON_NODE:-1}" --max-restarts=1000 --rdzv-backend=c10d \
        --rdzv-endpoint="$meeting_at:$port" --rdzv-id="$meeting-${SLURM_RESTART_COUNT:-0}" \
        --rdzv-conf="$conf" --local-addr="$(address_of "$node")" \
        --signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR2 \
        -m lenet_dist.train "$@" &
    launcher[$node]=$!
}

ended_by_slurm= warned= done=
trap 'ended_by_slurm=yes' TERM
trap 'warned=yes; scancel --signal=USR2 "$job"' USR1 USR2

declare -A launcher
for node in $(scontrol show hostnames "$SLURM_JOB_NODELIST"); do
    launch "$node" "$@"
done
# A launcher that exits with 0 means that the run is complete; the others end with it. srun also exits
# with 0 for a node that was lost, but that node no longer belongs to the job.
while [ -z "$done" ] && [ "${#launcher[@]}" -gt 0 ]; do
    sleep 1
    for node in "${!launcher[@]}"; do
        kill -0 "${launcher[$node]}" 2> /dev/null && continue
        wait "${launcher[$node]}" && is_of_the_job "$node" && done=yes
        unset "launcher[$node]"
    done
done

code=1
if [ -n "$done" ]; then
    code=0
elif [ -n "$warned" ] && [ -z "$ended_by_slurm" ]; then
    code=75
fi
finish "$@"
