#!/usr/bin/env bash
# Measures the speed of training side by side with the floor, loops by hand, Keras and Orbit: scripts/bench.sh [--help]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

prepare ""
PYTHONPATH=$root/scripts exec "$python" -m bench "$@"
