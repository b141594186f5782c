#!/usr/bin/env bash
# Draws a run, by default the short one that the README shows: scripts/picture.sh [RUN_DIR FILE].
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

usage="usage: scripts/picture.sh [RUN_DIR FILE]

Draws the loss and the checkpoints of the run in RUN_DIR into FILE (.svg, .png, …). Without arguments it trains digits
for 120 steps in a temporary folder and writes docs/run.svg: the same picture every time on the same kind of machine."

draw() {
  "$python" -c '
import sys
from trainer.command import run_command
from trainer.views.picture import draw_run

run_command(lambda arguments: draw_run(*arguments) or 0)
' "$@"
}

case "$#:${1-}" in
  1:-h | 1:--help)
    echo "$usage"
    exit
    ;;
  0: | 2:[!-]*) ;;
  *)
    echo "error: got ${*@Q}; expected nothing, or RUN_DIR and FILE: see --help" >&2
    exit 64
    ;;
esac

prepare report
if [[ $# -eq 2 ]]; then
  draw "$1" "$2"
  exit
fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# Cadences that do not divide each other, so that saves fall inside windows, each with another lag; and a learning rate
# at which the best checkpoint is not the last.
echo "Training digits for 120 steps …" >&2
"$python" -m trainer.main --experiment=digits --set=learning_rate=0.01 --monitor=validation/loss \
  --train_for=120steps --log_every=20 --save_every=15 --eval_every=30 --keep_last=2 --run_dir="$folder/run" \
  --progress=never
mkdir -p "$root/docs"
draw "$folder/run" "$root/docs/run.svg"
echo "drawn  $root/docs/run.svg"
