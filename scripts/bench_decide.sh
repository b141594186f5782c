#!/usr/bin/env bash
# Measures what deciding costs training: monitors, conditions, early stopping. scripts/bench_decide.sh [--help]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

prepare ""
exec "$python" "$root/scripts/bench_decide.py" "$@"
