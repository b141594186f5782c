"""A state of a gigabyte is saved and restored within the memory of a machine that has four."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.ledger.directory import RunDirectory
from trainer.ledger.manifest import Manifest

GIB = 1 << 30
MOST = 3.5 * GIB
"""What the process may take of four gigabytes: the system and the page cache need room too."""

EXPERIMENT = '''
import atexit
import dataclasses
import pathlib
import re
import resource
import sys

import numpy as np
import tensorflow as tf

import trainer


@atexit.register
def note_peak():
    """Writes how many bytes this process has taken at most, and it alone."""
    if sys.platform == "darwin":
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    else:
        # Linux has a process begin with the peak of the one that started it, in getrusage and there alone.
        peak = 1024 * int(re.search(r"VmHWM:\\s*(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])
    pathlib.Path("peak.txt").write_text(str(peak))


class Net(tf.Module):
    def __init__(self):
        super().__init__()
        self.parts = [tf.Variable(tf.fill([8, 4_194_304], 0.5)) for _ in range(8)]

    def __call__(self):
        return tf.add_n([tf.reduce_sum(part[0, :3]) for part in self.parts])


@dataclasses.dataclass(frozen=True)
class Big(trainer.Experiment):
    """A gigabyte of weights."""

    def model(self, seed):
        return Net()

    def optimizer(self):
        return trainer.optim.SGD(0.1)

    def train_data(self):
        return trainer.data.arrays({"x": np.ones([8], np.float32)}, batch_size=4)

    def eval_data(self):
        return {}

    def loss(self, model, batch, *, training, seed):
        return trainer.Loss(per_example=batch["x"] * model())
'''


@pytest.mark.slow
def test_gigabyte_is_saved_and_restored_in_place_and_in_shards_within_four(tmp_path: Path) -> None:
    (tmp_path / "big.py").write_text(EXPERIMENT)
    run_dir = tmp_path / "run"
    peaks = []
    for steps in (1, 2):
        train = [sys.executable, "-m", "trainer.main", "--experiment=big:Big", f"--run_dir={run_dir}"]
        train += ["--async_save=false", "--max_shard=256MiB", "--keep_last=1", "--save_every=never"]
        done = subprocess.run([*train, f"--train_for={steps}steps"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        peaks.append(int((tmp_path / "peak.txt").read_text()))
    assert "resume from step 1" in done.stdout
    print("peaks", [f"{peak / GIB:.2f} GiB" for peak in peaks])
    assert max(peaks) < MOST
    manifest = Manifest.load(RunDirectory(run_dir), 2)
    data = [file for file in manifest.files if ".data-" in file.name]
    assert manifest.size > GIB
    assert len(data) >= 4
    assert max(file.bytes for file in data) <= 256 << 20
    shutil.rmtree(run_dir)
