#!/usr/bin/env bash
# Measures checkpoints: what an asynchronous save costs training, and what a start costs. scripts/bench_checkpoint.sh [--help]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

prepare ""
exec "$python" "$root/scripts/bench_checkpoint.py" "$@"
