#!/usr/bin/env bash
# A trained model learns a new artist: from a folder of music to songs, on one machine.
#
#   launch/recipes/finetune.sh MODEL MUSIC OUT [TUNE] [OLD_DATA]
#
#   MODEL     a trained or imported model folder       MUSIC     songs of the new artist (see docs/data.md)
#   OUT       where data, model and songs go           TUNE      labels | lora | all (lora)
#   OLD_DATA  a data folder the model was trained on: half of every batch comes from it, so that nothing is forgotten
#
# Every step skips what is there, so the same command goes on after an interruption.
set -euo pipefail
model=$1 music=$2 out=$3 tune=${4:-lora} old=${5:-}
preset=${PRESET:-small} # rates and batch of the recipe; --steps, --batch and --lr change them

jukebox prepare "$music" --out "$out/data"
jukebox encode "$out/data" "$model" # with the old codec: the priors know no other codes
if [ -n "$old" ]; then jukebox encode "$old" "$model"; fi

# Every level learns the new names. They share nothing: on a machine with room, start the three side by side with --level.
rehearse=()
if [ -n "$old" ] && [ "$tune" != labels ]; then rehearse=(--rehearse "$old"); fi # new names alone change nothing old
jukebox train prior "$out/data" --from_model "$model" --out "$out/model" --tune "$tune" --preset "$preset" "${rehearse[@]}"
jukebox report train "$out/model" --out "$out/training.html"

# Bits per code of held-out songs, before and after: of the new artist fewer, of the old ones as many.
jukebox evaluate "$model" "$out/data" --out "$out/before.json"
jukebox evaluate "$out/model" "$out/data" --out "$out/after.json"
if [ -n "$old" ]; then jukebox evaluate "$out/model" "$old" --out "$out/old.json"; fi

artist=$(python -c 'import json, sys; known, new = (json.load(open(p + "/labels.json"))["artists"] for p in sys.argv[1:]); print(*[a for a in new if a not in known][:1])' \
  "$model" "$out/model")
jukebox sample "$out/model" --artist "$artist" --seconds 20 --out "$out/song"
echo "to hear it open $out/song/index.html; the curves are in $out/training.html"
