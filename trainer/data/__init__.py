"""Where examples come from: a batch is a function of the run's seed and of the examples consumed so far.

`arrays`, `records`, `files`, `text_lines` and `stream` make sources, `Source` and `Batch` are what any source promises,
and `fold_in` derives the stateless seeds of everything random.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from trainer.data.seeds import fold_in, random_bits, run_seed
from trainer.data.sources import Batch, GraphSource, PipelineSource, Source

if TYPE_CHECKING:
    from trainer.data.in_memory import arrays
    from trainer.data.lines import text_lines
    from trainer.data.streams import stream
    from trainer.data.tfrecords import records
    from trainer.data.whole_files import files

__all__ = [
    "Batch",
    "GraphSource",
    "PipelineSource",
    "Source",
    "arrays",
    "files",
    "fold_in",
    "random_bits",
    "records",
    "run_seed",
    "stream",
    "text_lines",
]

_MAKERS = {
    "arrays": "in_memory",
    "files": "whole_files",
    "records": "tfrecords",
    "stream": "streams",
    "text_lines": "lines",
}
"""The module of each maker of sources. Imported, it becomes an attribute of the room: none is named like a maker."""


def __getattr__(name: str) -> Any:
    """Imports what needs TensorFlow only when it is asked for: seeds and the contract do without (PEP 562)."""
    if name in _MAKERS:
        return getattr(importlib.import_module(f"trainer.data.{_MAKERS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
