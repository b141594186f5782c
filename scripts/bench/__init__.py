"""The speed of training, measured side by side: `scripts/bench.sh` runs it, `python -m bench` beside this folder."""
