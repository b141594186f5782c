"""Under a strategy of two replicas; in a process of its own, because devices are fixed when TensorFlow starts."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import textwrap

import pytest

import trainer.optim

PROGRAM = textwrap.dedent("""
    import tensorflow as tf
    from trainer.optim import SGD, AdamW, warmup

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["cpu:0", "cpu:1"])

    for make in (lambda: SGD(warmup(3, 0.1), momentum=0.9), lambda: AdamW(warmup(3, 0.1))):
        for lazy in (False, True):
            with strategy.scope():
                variable, optimizer = tf.Variable([1.0, 2.0]), make()
                if not lazy:
                    optimizer.build([variable])

            def replica():
                context = tf.distribute.get_replica_context()
                part = variable * tf.cast(context.replica_id_in_sync_group + 1, tf.float32)
                optimizer.apply([context.all_reduce(tf.distribute.ReduceOp.SUM, part)], [variable])

            run = tf.function(lambda: strategy.run(replica), autograph=False)
            for _ in range(3):
                run()
            alone = tf.Variable([1.0, 2.0])
            reference = make()
            for _ in range(3):
                reference.apply([alone * 3.0], [alone])
            first, second = (copy.numpy() for copy in strategy.experimental_local_results(variable))
            counts = [int(count.numpy()) for count in strategy.experimental_local_results(optimizer.iterations)]
            assert (first == second).all(), (first, second)
            assert abs(first - alone.numpy()).max() < 1e-6, (first, alone.numpy())
            assert counts == [3, 3], counts
            assert len(optimizer.trainable_variables) == 0
    print("replicas agree")
""")


@pytest.mark.slow
def test_replicas_stay_equal_and_match_one_device_built_before_or_in_the_replica():
    root = pathlib.Path(trainer.optim.__file__).parents[2]
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "replicas agree"
