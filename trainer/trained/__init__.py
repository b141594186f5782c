"""What is done with the checkpoints of a run: evaluated later, exported."""
