"""Which checkpoints are kept, and why: a pure function."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from trainer.ledger.manifest import Manifest


def kept_checkpoints(
    manifests: Iterable[Manifest], *, keep_last: int, best_steps: Collection[int] = ()
) -> dict[int, tuple[str, ...]]:
    """The steps that stay, each with every reason why.

    The set of the non-transient ones depends on the run alone: transient checkpoints do not count in `keep_last`, and
    only the newest of them stays.

    Args:
      manifests: every committed checkpoint.
      keep_last: how many of the newest non-transient ones stay.
      best_steps: the steps of the best checkpoints.
    """
    by_step = {manifest.step: manifest for manifest in manifests}
    if not by_step:
        return {}
    ordered = sorted(by_step, reverse=True)
    regular = [step for step in ordered if not by_step[step].transient]
    transient = [step for step in ordered if by_step[step].transient]
    reasons: dict[int, list[str]] = {step: [] for step in ordered}
    reasons[ordered[0]].append("newest")
    for step in regular[:keep_last]:
        reasons[step].append("last")
    for step in transient[:1]:
        reasons[step].append("transient")
    for step in ordered:
        if step in best_steps:
            reasons[step].append("best")
    return {step: tuple(why) for step, why in reasons.items() if why}
