"""Experiments made anew share nothing that changes."""

from __future__ import annotations

import zoo

from trainer.proof.fresh import maker


def test_each_run_begins_with_the_fields_as_they_were_given() -> None:
    experiment = zoo.HostCounter(counts=[5.0])
    make = maker(experiment)
    first = make()
    for other in (experiment, first):
        other.count()
    assert make().counts == [5.0]
