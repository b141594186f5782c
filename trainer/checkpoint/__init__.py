"""Checkpoints: written, committed, kept, found again and restored."""
