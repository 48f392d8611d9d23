#!/usr/bin/env bash
# What the spectral route makes of recordings, with its controls: figures for docs/evidence/recordings.{csv,json}.
#
#   launch/recipes/recordings.sh MUSIC OUT [EVIDENCE]
#
#   MUSIC     a folder of music; "" downloads three packages of game music from Debian (87 tracks, 0.3 GB)
#   OUT       where data, models and continuations go      EVIDENCE  folder of the tables (OUT)
#
# HOURS=1 is the time of the main model; a half and a quarter of it are trained too, as is one artist alone (a quarter), the three-level codec, and its
# ablation without the spectral loss (ABLATION_STEPS=1000, 0: none). MODELS="main half quarter artist levels" are those to train now: the tables keep
# the figures of the others. Every step skips what is there: the same command goes on after an interruption.
set -euo pipefail
music=$1 out=$2 evidence=${3:-$2}
hours=${HOURS:-1} preset=${PRESET:-recordings} levels=${LEVELS:-demo} held=${HELD_OUT:-12} steps=${ABLATION_STEPS:-1000}
models=" ${MODELS:-main half quarter artist levels} "
mkdir -p "$out"

if [ -z "$music" ]; then
  music=$out/music
  if [ ! -f "$music/.whole" ]; then
    if ! command -v apt-get > /dev/null || ! command -v dpkg > /dev/null; then
      echo "recordings.sh: the music comes from Debian's packages by apt-get and dpkg, which are not here; give a folder of music: MUSIC=folder" >&2
      exit 2
    fi
    mkdir -p "$out/packages"
    (cd "$out/packages" && apt-get download wesnoth-1.16-music warzone2100-music singularity-music) || {
      echo "recordings.sh: apt-get could not download the packages (apt-get update, or another release?); give a folder of music: MUSIC=folder" >&2
      exit 2
    }
    for package in "$out"/packages/*.deb; do dpkg -x "$package" "$music"; done
    touch "$music/.whole"
  fi
fi

# All models are trained on the same tracks, with the same ones held out.
data=$out/data
if [ ! -f "$data/manifest.parquet" ]; then
  python -m launch.learn tracks "$music" --out "$data" --hours "$hours" --held_out "$held"
  jukebox prepare "$data/songs.jsonl" --out "$data"
fi

learn() { # NAME SHARE_OF_HOURS MUSIC [FLAG ..]
  case $models in *" $1 "*) ;; *) return 0 ;; esac
  local time
  time=$(awk "BEGIN { print $hours * $2 }")
  jukebox learn "$3" --out "$out/$1" --hours "$time" --preset "$preset" "${@:4}"
  trained+=("$1")
}
trained=()
learn main 1 "$data"
learn half 0.5 "$data"
learn quarter 0.25 "$data"

# The artist with the most songs alone, where that has enough of them.
jukebox data "$data" --csv "$out/all.csv"
python - "$out/all.csv" "$out/artist.csv" << 'END'
import collections, csv, sys
rows = list(csv.DictReader(open(sys.argv[1], encoding="utf-8")))
(artist, count), *_ = [*collections.Counter(row["artist"] for row in rows if row["artist"]).most_common(1), ("", 0)]
with open(sys.argv[2], "w", encoding="utf-8", newline="") as file:
    if count >= 8:
        writer = csv.DictWriter(file, ("path", "artist", "genres", "lyrics"), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(row for row in rows if row["artist"] == artist)
END
if [ -s "$out/artist.csv" ]; then
  learn artist 0.25 "$out/artist.csv" --held_out 4
fi

# The three-level codec beside it, and what its spectral loss is worth (the paper's table 1).
beside=() ablation=()
if [[ $models == *" levels "* ]]; then
  jukebox train vqvae "$data" --preset "$levels" --out "$out/levels"
  beside=(--levels "$out/levels")
  if [ "$steps" -gt 0 ]; then
    jukebox ablate codec "$data" --out "$out/ablation" --seeds 1 --steps "$steps"
    ablation=(--ablation "$out/ablation")
  fi
fi

for model in "${trained[@]}"; do
  own=$data
  if [ "$model" = artist ]; then own=$out/artist_data; fi
  python -m launch.learn figures "$out/$model" "$own" --continuations "$held" "${beside[@]}"
done
python -m launch.learn gather "${trained[@]/#/$out/}" --to "$evidence" "${ablation[@]}"
