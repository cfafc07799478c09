# The life of a job, for train.sh, seeds.sh and elastic.sh: check, start the processes, requeue the job
# if it was stopped.
# Runs in the batch script, on the job's first node, in the repository.

fail() {
    echo "error: $*" >&2
    exit 2
}

[ -n "${SLURM_JOB_ID:-}" ] || fail "not in a SLURM job; submit it: sbatch $0 ..."

# SLURM_JOB_ID alone would name the whole array in one of its tasks.
job=$SLURM_JOB_ID
[ -n "${SLURM_ARRAY_JOB_ID:-}" ] && job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID

# What a job that submitted this one, or the shell of one, has told its own processes. SLURM gives it to
# this job too, except with --export=NONE, which would keep site.sh's settings from the tasks.
unset RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT
unset SLURM_MEM_PER_CPU SLURM_MEM_PER_GPU SLURM_MEM_PER_NODE SLURM_EXPORT_ENV "${!SLURM_CPU_BIND@}"

# Load and check the site's settings, and print what the job will do.
prepare() {
    source slurm/site.sh
    check_python
    # NCCL's flight recorder writes down what each rank was waiting for when it times out.
    export TORCH_FR_BUFFER_SIZE=2000 TORCH_FR_DUMP_ON_TIMEOUT=1
    export TORCH_FR_DUMP_TEMP_FILE=$PWD/slurm-$job.trace-rank_
    say_start "$@"
}

# Run lenet_dist.train with these arguments, one process per task of the job.
run_job() {
    prepare "$@"
    # SLURM sends a time limit's warning (--signal=USR2@...) to the processes. It sends SIGTERM to
    # them and to this script if the job is cancelled, preempted, requeued or out of time, and then
    # decides itself what follows.
    ended_by_slurm= interrupted=
    trap 'ended_by_slurm=yes interrupted=yes' TERM
    # With --signal=B:... only this script gets the warning.
    trap 'scancel --signal=USR2 "$job"; interrupted=yes' USR1 USR2

    srun --kill-on-bad-exit=1 --wait=60 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
        "${SRUN_FLAGS[@]}" "${PYTHON[@]}" -m lenet_dist.train "$@" &
    wait_for $!
    finish "$@"
}

# Exit with `code`, the processes' exit code, or with the requeue's if they were stopped.
finish() {
    if [ "$code" -eq 75 ] && [ -z "$ended_by_slurm" ]; then
        "${PYTHON[@]}" -m lenet_dist.requeue --most "$MAX_REQUEUES" "$@"
        code=$?
    elif [ "$code" -ne 0 ] && [ "$code" -ne 2 ] && [ -z "$ended_by_slurm" ]; then
        wait_for_a_lost_node
    fi
    exit "$code"
}

# The processes of the other nodes notice a lost node long before SLURM does. SLURM requeues the job
# when it has declared the node down, if the job is still there by then.
wait_for_a_lost_node() {
    timeout 30 srun --overlap --ntasks="$SLURM_NNODES" --ntasks-per-node=1 --cpus-per-task=1 \
        true > /dev/null 2>&1 && return
    local seconds
    seconds=$(scontrol show config | awk '$1 == "SlurmdTimeout" { print $3 + 60 }')
    echo "a node of this job does not answer: waiting up to $seconds s for SLURM to declare it" \
        "down and requeue the job" >&2
    sleep "$seconds" &
    wait $!
}

check_python() {
    "${PYTHON[@]}" -c 'import lenet_dist.config' ||
        fail "'${PYTHON[*]}' on $(hostname) can't import lenet_dist:" \
            "run 'make setup' on a file system that the nodes share, or correct slurm/site.sh"
}

say_start() {
    printf '\n=== job %s, start %d, %s: %d process(es) on %s\n=== lenet_dist.train %s\n' \
        "$job" $((${SLURM_RESTART_COUNT:-0} + 1)) "$(date '+%F %T')" \
        "$SLURM_NTASKS" "$SLURM_JOB_NODELIST" "$*"
}

# Set `code` to the exit code of a child. A signal with a trap ends `wait` before the child ends.
wait_for() {
    while interrupted=; wait "$1"; code=$?; [ -n "$interrupted" ]; do :; done
}
