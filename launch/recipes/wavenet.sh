#!/usr/bin/env bash
# WaveNet, NSynth and the argmax bottleneck on synthetic songs: what they learn over three seeds, each figure beside a control, and five
# models of held-out songs after equal CPU time.
#
#   launch/recipes/wavenet.sh OUT [EVIDENCE]
#
#   OUT       where songs, data and models go      EVIDENCE    folder for the tables and the figure (docs/evidence)
#
# Some 45 minutes on two cores by the sum of its parts, fixed seeds. Every step skips what is there: the same command goes on after an interruption.
set -euo pipefail
out=$1 evidence=${2:-}
preset=${PRESET:-wavenet} songs=${SONGS:-48} seconds=${SECONDS_OF_SONGS:-12} seeds=${SEEDS:-3} steps=${STEPS:-700} held=${HELD_OUT:-4}

if [ ! -f "$out/corpus/songs.jsonl" ]; then
  python -c 'import sys; from data_prep.synthetic.songs import make_corpus; make_corpus(sys.argv[1], int(sys.argv[2]), seed=0, seconds=float(sys.argv[3]))' \
    "$out/corpus" "$songs" "$seconds"
fi
[ -f "$out/data/manifest.parquet" ] || jukebox prepare "$out/corpus/songs.jsonl" --out "$out/data" --test_share "${TEST_SHARE:-0.15}"
jukebox ablate wavenet "$out/data" --out "$out/wavenet" --preset "$preset" --seeds "$seeds" --steps "$steps" --songs "$held"
jukebox ablate bottleneck "$out/data" --out "$out/bottleneck" --preset "$preset" --seeds "$seeds" --steps "$steps" --songs "$held"
[ -f "$out/bench.json" ] || [ "${BENCH:-1}" = 0 ] || jukebox bench wavenet --threads 1 --repeats 1 --out "$out/bench.json"
if [ -n "$evidence" ]; then
  mkdir -p "$evidence"
  cp "$out/wavenet/ablation.json" "$evidence/wavenet.json"
  cp "$out/bottleneck/ablation.json" "$evidence/bottleneck.json"
  cp "$out/wavenet/units/thread_0/thread.svg" "$evidence/wavenet_thread.svg"
  [ ! -f "$out/bench.json" ] || cp "$out/bench.json" "$evidence/wavenet_bench.json"
fi
