#!/usr/bin/env bash
# Sets up .venv the first time, then checks everything: scripts/test.sh [arguments of pytest].
# With arguments only pytest runs: scripts/test.sh tests/timeline, or for the fast part
# scripts/test.sh -n 2 --dist=loadfile -m "not slow".
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

prepare dev
cd "$root"
if [[ $# -eq 0 ]]; then
  "$python" -m ruff format --check .
  "$python" -m ruff check .
  "$python" -m mypy
  set -- --numprocesses=2 --dist=loadfile
fi
exec "$python" -m pytest "$@"
