"""Which checkpoints are kept, and why: a pure function."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from trainer.ledger.manifest import Manifest


def kept_checkpoints(
    manifests: Iterable[Manifest],
    *,
    keep_last: int,
    best_steps: Collection[int] = (),
    resumed_from: int | None = None,
) -> dict[int, tuple[str, ...]]:
    """The steps that stay, each with every reason why.

    But for the one resumed from, the set of the non-transient ones depends on the run alone: transient checkpoints do
    not count in `keep_last`, and only the newest of them stays.

    Args:
      manifests: every committed checkpoint.
      keep_last: how many of the newest non-transient ones stay.
      best_steps: the steps of the best checkpoints.
      resumed_from: the checkpoint that is known to restore, while no newer one is.

    Returns:
      By step, newest first: of `newest`, `last`, `best`, `every` (it was marked when it was saved), `transient` and
      `resumed` those that hold.
    """
    by_step = {manifest.step: manifest for manifest in manifests}
    ordered = sorted(by_step, reverse=True)
    regular = [step for step in ordered if not by_step[step].transient]
    transient = [step for step in ordered if by_step[step].transient]
    holds: dict[str, Collection[int]] = {
        "newest": ordered[:1],
        "last": regular[:keep_last],
        "best": best_steps,
        "every": [step for step in regular if by_step[step].for_good],
        "transient": transient[:1],
        "resumed": () if resumed_from is None else (resumed_from,),
    }
    reasons = {step: tuple(reason for reason, steps in holds.items() if step in steps) for step in ordered}
    return {step: why for step, why in reasons.items() if why}


def settled(kept: Mapping[int, Collection[str]], manifests: Mapping[int, Manifest]) -> tuple[int, ...]:
    """The steps of `kept` that an undisturbed run keeps too: none for its being transient, or only resumed from."""
    return tuple(step for step in sorted(kept) if not manifests[step].transient and set(kept[step]) != {"resumed"})
