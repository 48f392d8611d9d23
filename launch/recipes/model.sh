#!/usr/bin/env bash
# The model that comes with the package: synthetic songs, the spectral codec and its prior, written as jukebox/assets/demo.
#
#   launch/recipes/model.sh OUT [ASSETS]
#
#   OUT       where songs, data and the model go      ASSETS    the folder to write (jukebox/assets/demo)
#
# 72 minutes of training on two cores (codec 30, prior 28, decoder 14), fixed seeds. Every step skips what is there: the same command goes on after an interruption.
set -euo pipefail
out=$1 assets=${2:-}
preset=${PRESET:-shipped} songs=${SONGS:-480} seconds=${SECONDS_OF_SONGS:-20,90} figures=${FIGURES:-1}

if [ ! -f "$out/corpus/songs.jsonl" ]; then
  python -c 'import sys; from data_prep.synthetic.songs import make_corpus; make_corpus(sys.argv[1], int(sys.argv[2]), seed=0, seconds=tuple(map(float, sys.argv[3].split(","))))' \
    "$out/corpus" "$songs" "$seconds"
fi
[ -f "$out/data/manifest.parquet" ] || jukebox prepare "$out/corpus/songs.jsonl" --out "$out/data" --test_share "$(awk "BEGIN { share = 6 / $songs; print (share > 0.05 ? share : 0.05) }")"
jukebox train spectral "$out/data" --out "$out/model" --preset "$preset" --seed 0
jukebox encode "$out/data" "$out/model" --levels tokens
jukebox train tokens "$out/data" --out "$out/model" --preset "$preset" --seed 0
jukebox train decoder "$out/data" --out "$out/model" --preset "$preset" --seed 0
jukebox evaluate "$out/model" "$out/data" --out "$out/evaluation.json"
if [ "$figures" = 1 ]; then
  python -m launch.demo recogniser "$out/data" --out "$out/recogniser.safetensors" --seed 0
  python -m launch.demo songs "$out" --seed 0
  python -m launch.demo figures "$out" --seed 0
fi
python -m launch.learn ship "$out/model" --figures "$out" ${assets:+--out "$assets"}
