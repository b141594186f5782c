"""The order of a shuffled pass as a function of integers: no table, any position at once, the same bits everywhere."""

from __future__ import annotations

import math

from trainer.data.integers import Array, operations_for
from trainer.data.seeds import absorb, fmix32, split

# Eight rounds put every correlation at noise level on large grids. On tiny ones a round has few choices: measured over
# 40,000 passes, all orders of 5 or 6 examples come equally often with sixteen rounds, but not with eight or twelve.
ROUNDS, SMALL_ROUNDS, SMALL = 8, 16, 1024

#: The sides of the grid are uint32 and their sums must not wrap around.
MAX_LENGTH = 2**62


def permutation(seed: Array, passes: Array, positions: Array, *, length: int) -> Array:
    """Returns which example stands at each position of each pass: for every (seed, pass) a permutation of [0, length).

    A Feistel network on a grid just large enough: a position is (left, right) on a × b with a = ⌈√length⌉ and
    b = ⌈length / a⌉, and each round adds to one coordinate, modulo its side, a keyed hash of the other. What lands
    outside [0, length) is sent through again until it is inside (J. Black and P. Rogaway, "Ciphers with Arbitrary
    Finite Domains", 2002: generalized Feistel, cycle walking). The grid holds fewer than a cells too many, so less
    than one position in √length walks.

    Args:
      seed: int32 [2].
      passes: int64 [batch], which may differ: a batch can straddle the border between passes.
      positions: int64 [batch], each in [0, length).
      length: the examples in a pass, 1 to 2^62.

    Returns:
      int64 [batch]: NumPy arrays give an array, tensors a tensor; the bits are the same in both and under XLA.

    Raises:
      ValueError: the length is outside 1 to 2^62.
    """
    if not 1 <= length <= MAX_LENGTH:
        raise ValueError(f"a pass has 1 to 2^62 examples, not {length}")
    ops = operations_for(seed, passes, positions)
    a = math.isqrt(length - 1) + 1
    b = -(-length // a)

    rounds = SMALL_ROUNDS if length < SMALL else ROUNDS

    # Round keys: a SplitMix stream for each pass (G. Steele, D. Lea and C. Flood, 2014): start and odd increment.
    start, gamma = absorb(split(seed), passes)
    keys = [fmix32(start + i * (gamma | 1)) for i in range(rounds)]

    def encrypt(x: Array) -> Array:
        left, right = ops.cast(x // b, "uint32"), ops.cast(x % b, "uint32")
        for i in range(0, rounds, 2):
            left = (left + fmix32(right ^ keys[i]) % a) % a
            right = (right + fmix32(left ^ keys[i + 1]) % b) % b
        return ops.cast(left, "int64") * b + ops.cast(right, "int64")

    # Everything walks at least once. Written with a flag, the network stands in the program once and not twice.
    def walk(x: Array, outside: Array) -> tuple[Array, Array]:
        x = ops.where(outside, encrypt(x), x)
        return x, x >= length

    everywhere = positions >= 0
    examples, _ = ops.while_loop(lambda x, outside: ops.any(outside), walk, (positions, everywhere))
    return examples
