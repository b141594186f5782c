#!/usr/bin/env bash
# Measures how long trainer.status takes on a run directory with very much in it: scripts/bench_status.sh [--help]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

prepare ""
exec "$python" "$root/scripts/bench_status.py" "$@"
