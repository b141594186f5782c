#!/usr/bin/env bash
# Sets up .venv the first time, then trains: scripts/train.sh [flags of trainer.main]. Without flags it trains digits.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

prepare ""
exec "$python" -m trainer.main "$@"
