"""A loop of one's own with the promise: kill it anywhere, run it again, and nothing in log or weights tells."""

import sys

import numpy as np
import tensorflow as tf

import trainer


def main(run_dir: str) -> None:
    inputs = np.random.default_rng(17).normal(size=[1000, 3]).astype(np.float32)
    targets = inputs @ np.float32([1, -2, 3])
    weights = tf.Variable(tf.zeros([3]))

    @tf.function
    def train_step(rows: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            outputs = tf.linalg.matvec(tf.gather(inputs, rows), weights)
            loss = tf.reduce_mean((outputs - tf.gather(targets, rows)) ** 2)
        weights.assign_sub(0.01 * tape.gradient(loss, weights))
        return loss

    schedule = trainer.Schedule(train_for="200steps", log_every="7steps", save_every="5steps", batch_size=32)
    log = trainer.MetricLog(run_dir, epoch_examples=len(inputs))
    store = trainer.CheckpointStore(tf.train.Checkpoint(weights=weights), log)

    now = store.resume()
    while not schedule.finished(now):
        loss = train_step(np.arange(now.examples, now.examples + 32) % len(inputs))
        before, now = now, schedule.progress(now, now.step + 1)
        log.add({"loss": loss})
        due = schedule.due(before, now)
        if due.log:
            log.close(now, learning_rate=0.01, closed_by=due.closed_by)
        if due.save:
            store.save(now, reasons=due.save, last=due.stop)


if __name__ == "__main__":
    main(sys.argv[1])
