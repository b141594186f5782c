"""Where examples come from: a batch is a function of the run's seed and of the examples consumed so far.

`arrays` makes a source of arrays in memory, `Source` and `Batch` are what any source promises, and `fold_in` derives
the stateless seeds of everything random.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainer.data.seeds import fold_in, random_bits, run_seed
from trainer.data.sources import Batch, Source

if TYPE_CHECKING:
    from trainer.data.in_memory import arrays

__all__ = ["Batch", "Source", "arrays", "fold_in", "random_bits", "run_seed"]


def __getattr__(name: str) -> Any:
    """Imports what needs TensorFlow only when it is asked for: seeds and the contract do without (PEP 562)."""
    if name == "arrays":
        from trainer.data.in_memory import arrays

        return arrays
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
