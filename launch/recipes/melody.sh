#!/usr/bin/env bash
# Latent diffusion on synthetic songs: the spectral codec with its prior of tokens, the latent codec, diffusions of three seeds trained with
# chunks of several angles and without, a song by the route melody, its tokens through each renderer, and passes, seconds and quality of each
# route; beside it the three levels with their upsamplers and masked prior.
#
#   launch/recipes/melody.sh OUT [EVIDENCE]
#
#   OUT       where songs, data, models and music go      EVIDENCE    folder for the tables (docs/evidence)
#
# Some 55 minutes on two cores by the sum of its parts, fixed seeds. Every step skips what is there: the same command goes on after an interruption.
set -euo pipefail
out=$1 evidence=${2:-}
preset=${PRESET:-melody} songs=${SONGS:-64} seconds=${SECONDS_OF_SONGS:-24} seeds=${SEEDS:-3} steps=${STEPS:-1000} held=${HELD_OUT:-8}
music=${SECONDS_OF_MUSIC:-20} levels=${LEVELS:-demo}

if [ ! -f "$out/corpus/songs.jsonl" ]; then
  python -c 'import sys; from data_prep.synthetic.songs import make_corpus; make_corpus(sys.argv[1], int(sys.argv[2]), seed=0, seconds=float(sys.argv[3]))' \
    "$out/corpus" "$songs" "$seconds"
fi
[ -f "$out/data/manifest.parquet" ] || jukebox prepare "$out/corpus/songs.jsonl" --out "$out/data" --test_share 0.15
for part in spectral latent; do
  jukebox train "$part" "$out/data" --out "$out/model" --preset "$preset" --seed 0 ${CODEC_STEPS:+--steps "$CODEC_STEPS"}
done
jukebox train vqvae "$out/data" --out "$out/model" --preset "$levels" --seed 0 --max_minutes 0.5 ${CODEC_STEPS:+--steps "$CODEC_STEPS"}
jukebox encode "$out/data" "$out/model"
jukebox train tokens "$out/data" --out "$out/model" --preset "$preset" --seed 0 ${CODEC_STEPS:+--steps "$CODEC_STEPS"}
jukebox train prior "$out/data" --out "$out/model" --preset "$levels" --seed 0 --max_minutes 0.5 ${CODEC_STEPS:+--steps "$CODEC_STEPS"}
jukebox train masked "$out/data" --out "$out/model" --preset "$levels" --seed 0 --max_minutes 1.5 ${CODEC_STEPS:+--steps "$CODEC_STEPS"}
jukebox ablate melody "$out/data" "$out/model" --out "$out/ablation" --preset "$preset" --seeds "$seeds" --steps "$steps" --songs "$held"
trained="$out/ablation/units/multi_0/model"
if [ ! -d "$out/run" ]; then
  jukebox sample "$trained" --route melody --seconds "$music" --seed 0 --out "$out/run"
else
  jukebox resume "$out/run"
fi
[ -f "$out/compare/compare.json" ] || jukebox compare "$trained" "$out/run" --out "$out/compare" --seconds "$music"
[ -f "$out/bench.json" ] || [ "${BENCH:-1}" = 0 ] || jukebox bench render "$trained" --data "$out/data" --repeats 3 --out "$out/bench.json"
if [ -n "$evidence" ]; then
  mkdir -p "$evidence"
  cp "$out/ablation/ablation.json" "$evidence/melody.json"
  cp "$out/compare/compare.json" "$evidence/melody_compare.json"
  [ ! -f "$out/bench.json" ] || cp "$out/bench.json" "$evidence/melody_bench.json"
fi
