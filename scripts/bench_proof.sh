#!/usr/bin/env bash
# Measures what proofs cost: an audit's reading, and a replay beside the training that it repeats. scripts/bench_proof.sh [--help]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

prepare ""
exec "$python" "$root/scripts/bench_proof.py" "$@"
