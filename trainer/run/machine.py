"""The kind of machine that a run's last bits depend on."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import pathlib
import platform
import sys
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.errors import ConfigError
from trainer.run.exact_sums import sum_in_order

_ENVIRONMENT = (
    *("TF_ENABLE_ONEDNN_OPTS", "ONEDNN_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE"),
    *("XLA_FLAGS", "TF_XLA_FLAGS"),
    *("TF_NUM_INTEROP_THREADS", "TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS"),
    *("TF_DETERMINISTIC_OPS", "TF_CUDNN_DETERMINISTIC", "TF_CUDNN_USE_AUTOTUNE", "NVIDIA_TF32_OVERRIDE"),
)
"""Variables that choose among TensorFlow's kernels, or how they share their work: others may give other last bits."""


def configure(*, threads: int, deterministic: str) -> bool:
    """Sets TensorFlow's threads and determinism, and the order of sums; returns whether operations are deterministic.

    Raises:
      ConfigError: TensorFlow has already run something with other threads.
    """
    if threads:
        try:
            tf.config.threading.set_inter_op_parallelism_threads(threads)
            tf.config.threading.set_intra_op_parallelism_threads(threads)
        except RuntimeError:
            raise ConfigError(
                f"threads={threads} comes too late: TensorFlow has already started; set it before the first operation"
            ) from None
    on = deterministic == "true" or (deterministic == "auto" and bool(tf.config.list_physical_devices("GPU")))
    if on:
        tf.config.experimental.enable_op_determinism()
    sum_in_order()
    return on


def thread_counts() -> dict[str, int]:
    """TensorFlow's threads: as it was told, else as its variables say, else as many as the processors that it sees."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    told = tf.config.threading
    return {
        "inter_op": told.get_inter_op_parallelism_threads() or _count_of("TF_NUM_INTEROP_THREADS") or processors,
        "intra_op": told.get_intra_op_parallelism_threads() or _count_of("TF_NUM_INTRAOP_THREADS") or processors,
    }


def describe_machine() -> dict[str, Any]:
    """The processor, a digest of its instruction sets, the devices, and the environment's say in what computes."""
    model, features = _processor()
    devices = [
        tf.config.experimental.get_device_details(device).get("device_name", device.device_type)
        for device in tf.config.list_physical_devices()
        if device.device_type != "CPU"
    ]
    return {
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": model,
        "cpu_features": hashlib.sha256(features.encode()).hexdigest()[:16],
        "devices": devices,
        "environment": {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
    }


def versions() -> dict[str, str]:
    """The versions of what computes, and of this package."""
    found = {"python": platform.python_version(), "numpy": np.__version__, "tensorflow": tf.__version__}
    if "keras" in sys.modules:
        found["keras"] = sys.modules["keras"].__version__
    try:
        found["checkpoint-trainer"] = importlib.metadata.version("checkpoint-trainer")
    except importlib.metadata.PackageNotFoundError:
        found["checkpoint-trainer"] = "not installed"
    return found


def _count_of(variable: str) -> int:
    """What a variable of the environment says; 0 where that is no number of threads."""
    text = os.environ.get(variable, "")
    return int(text) if text.isdecimal() else 0


def _processor() -> tuple[str, str]:
    """The processor's name and its features, as Linux tells them; elsewhere what Python knows."""
    path = pathlib.Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = facts.get("model name") or platform.processor() or platform.machine()
    return name, facts.get("flags") or facts.get("Features") or ""
