#!/usr/bin/env bash
# The latent GAN on synthetic songs: the spectral codec, its second autoencoder, GANs of three seeds with their own and with shuffled
# controls, ten minutes of live music with changing controls, and songs beside those of the demo.
#
#   launch/recipes/musika.sh OUT [EVIDENCE]
#
#   OUT       where songs, data, models and music go      EVIDENCE    folder for the table (docs/evidence)
#
# Some 45 minutes on two cores by the sum of its parts, fixed seeds. Every step skips what is there: the same command goes on after an interruption.
set -euo pipefail
out=$1 evidence=${2:-}
preset=${PRESET:-musika} songs=${SONGS:-64} seconds=${SECONDS_OF_SONGS:-24} seeds=${SEEDS:-3} steps=${STEPS:-3000}
music=${SECONDS_OF_MUSIC:-600} switches=${SWITCHES:-20} held=${HELD_OUT:-8} length=${SECONDS_OF_SONG:-20}

if [ ! -f "$out/corpus/songs.jsonl" ]; then
  python -c 'import sys; from data_prep.synthetic.songs import make_corpus; make_corpus(sys.argv[1], int(sys.argv[2]), seed=0, seconds=float(sys.argv[3]))' \
    "$out/corpus" "$songs" "$seconds"
fi
[ -f "$out/data/manifest.parquet" ] || jukebox prepare "$out/corpus/songs.jsonl" --out "$out/data" --test_share 0.15
jukebox train spectral "$out/data" --out "$out/model" --preset "$preset" --seed 0 ${CODEC_STEPS:+--steps "$CODEC_STEPS"}
jukebox train stacked "$out/data" --out "$out/model" --preset "$preset" --seed 0 ${CODEC_STEPS:+--steps "$CODEC_STEPS"}
jukebox encode "$out/data" "$out/model" --levels 1,2
jukebox ablate musika "$out/data" "$out/model" --out "$out/ablation" --preset "$preset" --seeds "$seeds" --steps "$steps" --songs "$held"
trained="$out/ablation/units/own_0/model"
python -m launch.live session "$trained" --out "$out/session" --seconds "$music" --switches "$switches"
if [ ! -f "$out/songs.json" ]; then
  python -m launch.demo recogniser "$out/data" --out "$out/recogniser.safetensors" ${RECOGNISER_STEPS:+--steps "$RECOGNISER_STEPS"}
  jukebox data "$out/data" --csv "$out/all.csv"
  IFS=, read -r artist genre < <(python -c 'import csv, sys; row = next(csv.DictReader(open(sys.argv[1]))); print(row["artist"], row["genres"], sep=",")' "$out/all.csv")
  [ -f "$out/song/run.json" ] || jukebox sample "$trained" --route musika --artist "$artist" --genre "$genre" --takes 4 --seconds "$length" --out "$out/song"
  jukebox resume "$out/song"
  python -m launch.demo table "$out/song" --model "$trained" --data "$out/data" --recogniser "$out/recogniser.safetensors" --out "$out/songs.json"
fi
[ -f "$out/bench.json" ] || [ "${BENCH:-1}" = 0 ] || jukebox bench live "$trained" --repeats 1 --out "$out/bench.json"
if [ -n "$evidence" ]; then
  mkdir -p "$evidence"
  cp "$out/ablation/ablation.json" "$evidence/musika.json"
  cp "$out/session/session.json" "$evidence/musika_session.json"
  cp "$out/songs.json" "$evidence/musika_songs.json"
  [ ! -f "$out/bench.json" ] || cp "$out/bench.json" "$evidence/musika_bench.json"
fi
