# What differs from site to site. slurm/job.sh reads this in the batch script, before the processes
# start; they inherit what is exported. See slurm/README.md.

# Modules, if Python or CUDA come from there:
# module load cuda

# Python with lenet_dist. On a compute node the same path must hold it. In a container:
# PYTHON=(apptainer exec --nv lenet_dist.sif python)
PYTHON=(.venv/bin/python)

# More flags for srun, as for a container by Pyxis:
# SRUN_FLAGS=(--container-image=lenet_dist.sqsh --container-mounts="$PWD")
SRUN_FLAGS=()

# Times that a job requeues itself. Preemptions and requeues by others count, and are not limited.
MAX_REQUEUES=${MAX_REQUEUES:-50}

# The network for NCCL, where it does not find the right one by itself:
# export NCCL_SOCKET_IFNAME=ib0 NCCL_IB_HCA=mlx5
export NCCL_DEBUG=${NCCL_DEBUG:-WARN}
