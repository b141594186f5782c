"""The audit: what a run left is checked against itself, one claim after the other."""
