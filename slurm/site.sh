# What differs from site to site. slurm/job.sh reads this in the batch script, before the processes
# start; they inherit what is exported. See slurm/README.md.

# Modules, if Python or CUDA come from modules:
# module load cuda

# The Python that has lenet_dist, at the same path on every compute node. In a container:
# PYTHON=(apptainer exec --nv lenet_dist.sif python)
PYTHON=(.venv/bin/python)

# More flags for srun, for example for a Pyxis container:
# SRUN_FLAGS=(--container-image=lenet_dist.sqsh --container-mounts="$PWD" --container-workdir="$PWD")
SRUN_FLAGS=()

# How often a job may requeue itself. Preemptions and requeues by others count too, but are not limited.
MAX_REQUEUES=${MAX_REQUEUES:-50}

# The network for NCCL, if it does not find the right one by itself:
# export NCCL_SOCKET_IFNAME=ib0 NCCL_IB_HCA=mlx5
export NCCL_DEBUG=${NCCL_DEBUG:-WARN}
