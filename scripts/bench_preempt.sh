#!/usr/bin/env bash
# Measures what an interruption costs: the way to the first new step, from a notice to the exit, and goodput. scripts/bench_preempt.sh [--help]
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

prepare ""
exec "$python" "$root/scripts/bench_preempt.py" "$@"
