"""What to keep and when to stop: pure folds over the records."""
