"""The cadences of a proof: checkpoints where they are needed, and windows across them."""

from __future__ import annotations

import dataclasses

import pytest

from trainer.proof.options import SET_HERE, cadences
from trainer.run.config import Config, make_config


@pytest.mark.parametrize("cuts", [(0,), (0, 1, 6), (2,), (4, 8), (3, 6, 9), tuple(range(12))])
def test_every_cut_is_saved_and_is_inside_a_window_where_that_can_be(cuts: tuple[int, ...]) -> None:
    config = make_config(cadences(12, cuts), {})
    save, log = (int(getattr(config, name).removesuffix("steps")) for name in ("save_every", "log_every"))
    stops = [cut for cut in cuts if cut]
    assert all(cut % save == 0 for cut in stops)
    assert len(stops) > 3 or all(cut % log for cut in stops)
    assert config.keep_last > 12 / save


def test_what_an_experiment_would_decide_by_is_left_out_of_short_runs() -> None:
    suggested = {"early_stop": "1eval", "min_delta": 0.5, "save_if": "train/loss<1,validation/loss<1"}
    config = make_config(cadences(12, (6,)), suggested)
    assert (config.early_stop, config.min_delta, config.save_if) == ("never", 0.0, None)


def test_what_the_proof_sets_is_an_option_of_the_trainer() -> None:
    names = {item.name for item in dataclasses.fields(Config)}
    assert set(SET_HERE) <= names
