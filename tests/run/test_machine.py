"""The kind of machine: what the last bits of a run depend on."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf

from trainer.errors import ConfigError
from trainer.run import machine


@pytest.fixture
def determinism(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Notes instead of switching: TensorFlow's determinism cannot be taken back within a process."""
    switched: list[bool] = []
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: switched.append(True))
    return switched


def devices(monkeypatch: pytest.MonkeyPatch, *kinds: str) -> None:
    known = [tf.config.PhysicalDevice(f"/physical_device:{kind}:0", kind) for kind in kinds]
    monkeypatch.setattr(
        tf.config, "list_physical_devices", lambda kind=None: [d for d in known if kind in (None, d.device_type)]
    )
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda device: {"device_name": "Accelerator 9"})


@pytest.mark.parametrize(
    ("setting", "kinds", "expected"),
    [
        ("auto", ["CPU"], False),
        ("auto", ["CPU", "GPU"], True),
        ("true", ["CPU"], True),
        ("false", ["CPU", "GPU"], False),
    ],
)
def test_operations_are_deterministic_when_asked_for_and_by_default_with_a_gpu(
    setting: str, kinds: list[str], expected: bool, determinism: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    devices(monkeypatch, *kinds)
    assert machine.configure(threads=0, deterministic=setting) is expected
    assert determinism == [True] * expected


def test_threads_that_come_too_late_are_refused_in_one_line() -> None:
    tf.zeros([]) + 1
    with pytest.raises(ConfigError, match="threads=37 comes too late") as caught:
        machine.configure(threads=37, deterministic="false")
    assert "\n" not in str(caught.value)


def test_threads_are_set_within_and_between_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: dict[str, int] = {}
    for kind in ("inter_op", "intra_op"):
        name = f"set_{kind}_parallelism_threads"
        monkeypatch.setattr(tf.config.threading, name, lambda n, kind=kind: counts.__setitem__(kind, n))
    machine.configure(threads=3, deterministic="false")
    assert counts == {"inter_op": 3, "intra_op": 3}


def test_threads_are_told_as_numbers_even_when_tensorflow_chooses() -> None:
    counts = machine.thread_counts()
    assert counts.keys() == {"inter_op", "intra_op"}
    assert all(type(count) is int and count >= 1 for count in counts.values())


def test_threads_that_the_environment_sets_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"inter_op": 0, "intra_op": 0}
    for kind in told:
        monkeypatch.setattr(tf.config.threading, f"get_{kind}_parallelism_threads", lambda kind=kind: told[kind])
    for variable in ("TF_NUM_INTEROP_THREADS", "TF_NUM_INTRAOP_THREADS"):
        monkeypatch.delenv(variable, raising=False)
    before = machine.thread_counts()
    monkeypatch.setenv("TF_NUM_INTEROP_THREADS", "91")
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "many")
    assert machine.thread_counts() == {**before, "inter_op": 91}
    told["inter_op"] = 3
    assert machine.thread_counts() == {**before, "inter_op": 3}


def test_the_machine_is_described_by_what_changes_bits_and_not_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    devices(monkeypatch, "CPU", "GPU")
    known = machine.describe_machine()
    assert json.loads(json.dumps(known)) == known
    assert known == machine.describe_machine()
    assert known["devices"] == ["Accelerator 9"]
    assert known["cpu"]
    monkeypatch.setattr("socket.gethostname", lambda: "another-host")
    assert machine.describe_machine() == known


def test_other_instruction_sets_are_another_kind_of_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_processor", lambda: ("One CPU", "sse avx avx2"))
    wide = machine.describe_machine()
    monkeypatch.setattr(machine, "_processor", lambda: ("One CPU", "sse avx"))
    narrow = machine.describe_machine()
    assert wide["cpu"] == narrow["cpu"] == "One CPU"
    assert wide != narrow


def test_what_the_environment_has_to_say_of_the_kernels_is_part_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_max_isa=AVX2")
    monkeypatch.setenv("SECRET", "not for a file")
    known = machine.describe_machine()["environment"]
    assert known["XLA_FLAGS"] == "--xla_cpu_max_isa=AVX2"
    assert "TF_ENABLE_ONEDNN_OPTS" not in known
    assert "SECRET" not in known
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    assert machine.describe_machine()["environment"] == {**known, "TF_ENABLE_ONEDNN_OPTS": "0"}


def test_versions_are_those_of_what_computes() -> None:
    versions = machine.versions()
    assert versions["tensorflow"] == tf.__version__
    assert versions["numpy"] == np.__version__
    assert {"python", "checkpoint-trainer"} <= versions.keys()
    assert json.loads(json.dumps(versions)) == versions
