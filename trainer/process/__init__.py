"""The process that trains: its lock on the run directory and its signals."""
