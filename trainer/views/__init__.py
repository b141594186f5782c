"""What people see of a run: progress, TensorBoard's curves. Reads the ledger; never imports TensorFlow."""
