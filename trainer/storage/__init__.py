"""The few file operations that the ledger and the checkpoints are made of."""
