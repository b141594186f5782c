"""Proofs about an experiment before time is spent on it: that it resumes exactly, and what would keep it from that."""
