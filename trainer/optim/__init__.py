"""Optimizers on TensorFlow's fused kernels, learning-rate schedules, and the L2 penalty.

optimizer = Adam(warmup(100, cosine(1e-3, 10_000)))
optimizer.build(model.trainable_variables, step)
optimizer.apply(gradients, model.trainable_variables)
"""

from trainer.optim.adam import Adam
from trainer.optim.adamw import AdamW
from trainer.optim.decay import l2
from trainer.optim.optimizer import Optimizer
from trainer.optim.schedules import constant, cosine, piecewise, warmup
from trainer.optim.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "constant", "cosine", "l2", "piecewise", "warmup"]
