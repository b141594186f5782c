"""Operations that remember: what they do next depends on how often they were called, and no checkpoint says it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

RANDOM = frozenset(
    {
        "AllCandidateSampler",
        "FixedUnigramCandidateSampler",
        "LearnedUnigramCandidateSampler",
        "LogUniformCandidateSampler",
        "Multinomial",
        "ParameterizedTruncatedNormal",
        "RandomCrop",
        "RandomGamma",
        "RandomPoisson",
        "RandomPoissonV2",
        "RandomShuffle",
        "RandomStandardNormal",
        "RandomUniform",
        "RandomUniformInt",
        "SampleDistortedBoundingBox",
        "SampleDistortedBoundingBoxV2",
        "ThreadUnsafeUnigramCandidateSampler",
        "TruncatedNormal",
        "UniformCandidateSampler",
    }
)
"""Operations that draw from a generator inside of them, which no checkpoint holds: also with a seed."""


def operations_in(graph: Any, types: Collection[str]) -> Iterator[Any]:
    """The operations of these types in a graph, and the nodes of these types in the functions that it calls.

    Args:
      graph: a `tf.Graph`.
      types: names of operations, such as `RandomUniform`.

    Yields:
      `tf.Operation`s of the graph itself, then `NodeDef`s of its loops, branches and functions.
    """
    yield from (operation for operation in graph.get_operations() if operation.type in types)
    for function in graph.as_graph_def().library.function:
        yield from (node for node in function.node_def if node.op in types)
