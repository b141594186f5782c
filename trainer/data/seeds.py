"""Stateless seeds: integer hashing that gives the same bits in a graph, under XLA and in NumPy.

A seed is int32 of shape [2], what ``tf.random.stateless_*`` takes. Every seed of a run is folded from the run's own
seed and from what it is for, so nothing random is carried from step to step::

    seed = fold_in(run_seed(17), step, micro_batch, replica)
    noise = tf.random.stateless_normal([8], seed, alg="philox")

Pass ``alg="philox"``: the default algorithm depends on the device, and is slow under XLA.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainer.data.integers import Array, Integers, operations_for

#: Two uint32 arrays of one shape: a seed, or one seed per element.
Words = tuple[Array, Array]

# The golden ratio's fraction in 32 bits: round constants that are nobody's choice, and the hash of zeros is not zeros.
GOLDEN = 0x9E3779B9


def run_seed(seed: int) -> np.ndarray:
    """Returns the seed of a run, int32 [2], from any Python integer; it is taken modulo 2^64."""
    return np.asarray(fold_in(np.zeros(2, np.int32), seed))


def fold_in(seed: Array, *parts: Array) -> Array:
    """Derives a seed from a seed and integers, such as a step and a replica; the order of the parts matters.

    Folding one after another is folding together: ``fold_in(fold_in(s, a), b)`` equals ``fold_in(s, a, b)``. For one
    seed, different 64-bit parts never give the same seed, and for one part neither do different seeds.

    Args:
      seed: int32 [2], a NumPy array or a tensor.
      *parts: integer scalars: Python's (modulo 2^64), NumPy's or tensors. A value means the same in every dtype.

    Returns:
      int32 [2]: a NumPy array when the seed and all parts are Python's or NumPy's, a tensor otherwise. The bits are
      the same.

    Raises:
      TypeError: a part or the seed is not of an integer type.
      ValueError: the seed is not of shape [2].
    """
    ops = operations_for(seed, *parts)
    words = split(seed)
    for part in parts:
        _require_integer(part, "what is folded in")
        words = absorb(words, _scalar(part, ops))
    return ops.cast(ops.concat(words), "int32")


def random_bits(seed: Array, shape: Sequence[int]) -> Array:
    """Returns independent uniform uint32 values: a hash of each position with the seed.

    A tenth of the time that `tf.random.stateless_uniform` takes under XLA on a CPU, and good enough for masks such as
    dropout's: ``random_bits(seed, [batch, units]) >= int(rate * 2**32)`` keeps a unit with probability 1 − rate.

    Args:
      seed: int32 [2], an array or a tensor.
      shape: of the result; its product is below 2^32.
    """
    ops = operations_for(seed)
    first, second = split(seed)
    # Two rounds: positions are spread and meet one word of the seed, then the other.
    return fmix32(fmix32(ops.positions(shape) * GOLDEN + first) ^ second)


def split(seed: Array) -> Words:
    """Returns the two words of a seed int32 [2], each uint32 [1] so that they broadcast against a batch."""
    ops = operations_for(seed)
    _require_integer(seed, "the seed")
    if tuple(seed.shape) != (2,):
        raise ValueError(f"a seed has shape [2], this one {list(seed.shape)}; make one with run_seed(integer)")
    words = ops.array(seed, "uint32")
    return words[0:1], words[1:2]


def absorb(words: Words, part: Array) -> Words:
    """Mixes int64 parts into words; shapes broadcast.

    Both halves of the part are XORed in, then three rounds of a Feistel network with `fmix32` as round function
    (M. Luby and C. Rackoff, 1988) mix the 64 bits. Each round can be undone, so no two parts meet.
    """
    ops = operations_for(*words, part)
    first = words[0] ^ ops.cast(part, "uint32")
    second = words[1] ^ ops.cast(ops.shift_right(part, 32), "uint32")
    second = second ^ fmix32(first + GOLDEN)
    first = first ^ fmix32(second + 2 * GOLDEN % 2**32)
    second = second ^ fmix32(first + 3 * GOLDEN % 2**32)
    return first, second


def fmix32(x: Array) -> Array:
    """Mixes the bits of uint32 values, one to one: the finalizer of MurmurHash3 (A. Appleby, 2011, public domain)."""
    ops = operations_for(x)
    x = (x ^ ops.shift_right(x, 16)) * 0x85EBCA6B
    x = (x ^ ops.shift_right(x, 13)) * 0xC2B2AE35
    return x ^ ops.shift_right(x, 16)


def _scalar(part: Array, ops: Integers) -> Array:
    """Returns one part as int64 [1]: NumPy warns when a scalar wraps around, but not when an array does."""
    if isinstance(part, int):
        part = (part + 2**63) % 2**64 - 2**63
    return ops.array(part, "int64")[None]


def _require_integer(value: Array, what: str) -> None:
    dtype = getattr(value, "dtype", None)
    name = str(getattr(dtype, "name", dtype)) if dtype is not None else type(value).__name__
    if not name.startswith(("int", "uint")):
        raise TypeError(f"{what} is {name}, not of an integer type; give an integer, an array or a tensor of integers")
