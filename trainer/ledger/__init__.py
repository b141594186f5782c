"""The run directory's formats: record, metric log, journal, manifest. Pure Python, no TensorFlow."""
