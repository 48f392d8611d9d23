#!/usr/bin/env bash
# The top prior of a large model on a SLURM cluster, from a folder of music: songs on CPU nodes, codes and training on GPUs.
# Every line can be given again after whatever ended it, and goes on where it was.
#   launch/recipes/cluster_top_prior.sh MUSIC DATA MODEL PRESET NODES GPUS_PER_NODE
set -euo pipefail
music=$1 data=$2 model=$3 preset=${4:-small} nodes=${5:-8} gpus=${6:-8}

# 64 decoding ranks on this machine or in this allocation; files that cannot be read are listed in DATA/refused.parquet
mpirun -n 64 jukebox prepare "$music" --out "$data"

# the codec: coarsest level first, all GPUs of one node
jukebox launch --slurm --nodes 1 --ranks_per_node "$gpus" --time 1-0 --logs logs/codec --options="--gpus-per-node=$gpus --wait" \
    -- train vqvae "$data" --preset "$preset" --out "$model"

# the codes of level 2, once: priors then train without touching sound
jukebox launch --slurm --nodes "$nodes" --ranks_per_node "$gpus" --time 1-0 --logs logs/codes --options="--gpus-per-node=$gpus --wait" \
    -- encode "$data" "$model" --levels 2

# the top prior; the job requeues itself before its time limit and after preemption until all steps are done
jukebox launch --slurm --nodes "$nodes" --ranks_per_node "$gpus" --time 1-0 --logs logs/prior_2 --options="--gpus-per-node=$gpus" \
    -- train prior "$data" --preset "$preset" --level 2 --zero 1 --out "$model"
