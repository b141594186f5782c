"""The experiments that come with the trainer: one file each, named as `--experiment` names it."""
