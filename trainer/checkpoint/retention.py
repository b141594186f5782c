"""Which checkpoints are kept, and why: pure functions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping

from trainer.ledger.manifest import Manifest
from trainer.timeline.cadence import Progress


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
        "last": set(regular[:keep_last]),
        "best": best_steps,
        "every": {step for step in regular if by_step[step].for_good},
        "transient": transient[:1],
        "resumed": () if resumed_from is None else (resumed_from,),
    }
    reasons = {step: tuple(reason for reason, steps in holds.items() if step in steps) for step in ordered}
    return {step: why for step, why in reasons.items() if why}


def settled(kept: Mapping[int, Collection[str]], manifests: Mapping[int, Manifest]) -> tuple[int, ...]:
    """The steps of `kept` that an undisturbed run keeps too: none for its being transient, or only resumed from."""
    return tuple(step for step in sorted(kept) if not manifests[step].transient and set(kept[step]) != {"resumed"})


@dataclasses.dataclass(frozen=True)
class Decision:
    """What is decided with a save."""

    manifest: Manifest
    """That of the new checkpoint, which says what stays."""
    stay: tuple[int, ...]
    """The steps of the checkpoints that stay once it is committed, its own among them."""
    delete: tuple[int, ...]
    """The steps of those that need not."""


def decide(
    manifest: Manifest,
    known: Mapping[int, Manifest],
    *,
    keep_last: int,
    best_steps: Collection[int],
    resumed_from: int | None,
    keeps_for_good: Callable[[Progress, Progress], bool],
) -> Decision:
    """Decides which checkpoints stay once that of `manifest` is committed.

    Args:
      manifest: that of the new checkpoint, or the one that replaces the newest checkpoint's.
      known: those of the committed checkpoints, by step.
      keep_last: as for `kept_checkpoints`.
      best_steps: as for `kept_checkpoints`.
      resumed_from: as for `kept_checkpoints`.
      keeps_for_good: whether a checkpoint stays for good, given the progress of the last one before it that is not
        transient, and its own.
    """
    others = {step: other for step, other in known.items() if step != manifest.step}
    regular = [other for other in others.values() if not other.transient]
    before = max(regular, key=lambda other: other.step).progress if regular else Progress()
    if not manifest.transient and keeps_for_good(before, manifest.progress):
        manifest = dataclasses.replace(manifest, for_good=True)
    manifests = {**others, manifest.step: manifest}
    kept = kept_checkpoints(manifests.values(), keep_last=keep_last, best_steps=best_steps, resumed_from=resumed_from)
    return Decision(
        manifest=dataclasses.replace(manifest, kept=settled(kept, manifests)),
        stay=tuple(sorted(kept)),
        delete=tuple(sorted(others.keys() - kept.keys())),
    )
