"""Which checkpoint a text means."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
import subprocess
import sys

import pytest

from trainer.checkpoint.selection import choose, fingerprint, select
from trainer.errors import ConfigError, Unusable
from trainer.ledger.manifest import Manifest
from trainer.ledger.record import Record
from trainer.ledger.run_info import RunInfo


@pytest.fixture
def saved(past):
    """A run directory with the checkpoints 100, 200 and 300."""
    return past.save(100).save(200).save(300)


def rank(directory, step, *best, metric="validation/loss"):
    """Commits the checkpoint of `step` again with a ranking of the steps `best`."""
    ranking = {metric: [{"value": 0.5, "step": known} for known in best]}
    write_best(directory, step, ranking)


def write_best(directory, step, best):
    rewrite(directory, step, control={**Manifest.load(directory, step).control, "best": best})


def rewrite(directory, step, **fields):
    """Commits the checkpoint of `step` again with other fields."""
    manifest = dataclasses.replace(Manifest.load(directory, step), **fields)
    directory.files.commit(directory.manifest(step), manifest.encode())


def damage(directory, step):
    pathlib.Path(directory.state_prefix(step) + ".data-00000-of-00001").write_bytes(b"cut")


def write_run_info(directory, run):
    info = RunInfo("m:E", {}, 17, "none", False, {}, {}, {}, {}, None, False, run_id=run)
    directory.files.make_directory(directory.path)
    directory.files.write(directory.run_info, info.encode())


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_latest_is_the_newest_checkpoint(saved):
    selected = choose(saved.directory, "latest")
    assert (selected.step, selected.prefix) == (300, saved.directory.state_prefix(300))
    assert selected.manifest == Manifest.load(saved.directory, 300)
    assert selected.skipped == ()


def test_latest_passes_over_what_cannot_be_used_and_says_so(saved):
    damage(saved.directory, 300)
    selected = choose(saved.directory, "latest")
    assert selected.step == 200
    [(step, reason)] = selected.skipped
    assert step == 300
    assert "has 3 bytes" in reason


def test_latest_passes_over_the_checkpoint_of_another_run(saved):
    write_run_info(saved.directory, "ours")
    rewrite(saved.directory, 300, run="theirs")
    assert choose(saved.directory, "latest").step == 200
    with pytest.raises(Unusable, match="belongs to the run theirs, not to ours"):
        choose(saved.directory, "300")


def test_unfinished_checkpoint_is_none(saved):
    saved.files(400)
    assert choose(saved.directory, "latest").step == 300
    with pytest.raises(Unusable, match="no checkpoint of step 400"):
        choose(saved.directory, "400")


def test_where_none_can_be_used_every_reason_is_told(past):
    past.save(100).save(200)
    damage(past.directory, 100)
    damage(past.directory, 200)
    with pytest.raises(Unusable, match=r"step 200: .*; step 100: ") as error:
        choose(past.directory, "latest")
    one_line(error)


@pytest.mark.parametrize(("which", "step"), [("100", 100), ("0200", 200), ("3_00", 300)])
def test_step_is_named_by_its_number(saved, which, step):
    assert choose(saved.directory, which).step == step


def test_damaged_step_that_was_asked_for_is_refused(saved):
    damage(saved.directory, 200)
    with pytest.raises(Unusable, match=r"checkpoint 200 .* has 3 bytes.*are the steps 100, 200, 300") as error:
        choose(saved.directory, "200")
    one_line(error)


def test_unknown_step_names_the_steps_there_are(saved):
    with pytest.raises(Unusable, match="no checkpoint of step 250; there are the steps 100, 200, 300") as error:
        choose(saved.directory, "250")
    one_line(error)


def test_of_many_steps_the_newest_are_named(past):
    for step in range(100, 1400, 100):
        past.save(step)
    with pytest.raises(Unusable, match=r"the steps 400, .*, 1300 and 3 older$"):
        choose(past.directory, "5")


def test_best_is_the_first_of_the_newest_ranking(saved):
    rank(saved.directory, 200, 200)
    rank(saved.directory, 300, 100, 300)
    assert choose(saved.directory, "best").step == 100


def test_best_is_that_of_the_first_monitored_metric(saved):
    ranked = {name: [{"value": 0.5, "step": step}] for name, step in (("validation/loss", 200), ("train/loss", 100))}
    write_best(saved.directory, 300, ranked)
    assert choose(saved.directory, "best").step == 200
    write_best(saved.directory, 300, {**ranked, "validation/loss": []})
    with pytest.raises(Unusable, match="no best step yet"):
        choose(saved.directory, "best")


def test_best_comes_from_the_newest_manifest_that_can_be_used(saved):
    rank(saved.directory, 200, 200)
    rank(saved.directory, 300, 100)
    damage(saved.directory, 300)
    selected = choose(saved.directory, "best")
    assert selected.step == 200
    assert [step for step, _ in selected.skipped] == [300]


def test_best_that_was_not_kept_is_refused(saved):
    rank(saved.directory, 300, 50)
    with pytest.raises(Unusable, match=r"best step 50 of .* is not kept; there are the steps 100, 200, 300") as error:
        choose(saved.directory, "best")
    one_line(error)


def test_best_that_is_damaged_is_refused_rather_than_replaced(saved):
    rank(saved.directory, 300, 100, 200)
    damage(saved.directory, 100)
    with pytest.raises(Unusable, match=r"checkpoint 100 .* cannot be used"):
        choose(saved.directory, "best")


@pytest.mark.parametrize("best", [{}, {"validation/loss": []}])
def test_best_of_a_run_that_ranked_nothing_is_refused(saved, best):
    write_best(saved.directory, 300, best)
    with pytest.raises(Unusable, match="no best step yet; there are the steps 100, 200, 300"):
        choose(saved.directory, "best")


@pytest.mark.parametrize("best", [["x"], {"validation/loss": ["x"]}, {"validation/loss": [{"value": 1}]}])
def test_garbled_ranking_is_refused_in_one_line(saved, best):
    write_best(saved.directory, 300, best)
    with pytest.raises(Unusable, match=r"step 300 .* control\.best") as error:
        choose(saved.directory, "best")
    one_line(error)


def log_losses(past, losses):
    """Logs a window of 100 steps for each loss."""
    records = [
        Record("train", 100 * end, 0, None, {"loss": loss}, window=(100 * end - 100, 100 * end))
        for end, loss in enumerate(losses, start=1)
    ]
    past.log.append(records)
    return past


STOPPED_AT_800 = [9.0, 9, 8, 7, 6, *[1.0] * 7]
"""Smoothed it is 8, 7, 6 and 1 from step 800 on."""


def test_before_plateau_is_the_newest_before_the_train_loss_stopped_improving(past):
    log_losses(past, STOPPED_AT_800)
    for step in (300, 700, 800, 1200):
        past.save(step)
    selected = choose(past.directory, "before-plateau")
    assert selected.step == 700
    assert selected.explanation == (
        "the smoothed train loss fell from 8 at step 500 to 1 at step 800; 98% of that was reached at step 800; "
        "step 700 is the newest checkpoint before that"
    )
    assert select(f"{past.directory.path}@before-plateau") == selected
    assert choose(past.directory, "latest").explanation is None


def test_before_plateau_passes_over_what_cannot_be_used(past):
    log_losses(past, STOPPED_AT_800).save(300).save(700)
    damage(past.directory, 700)
    selected = choose(past.directory, "before-plateau")
    assert (selected.step, [step for step, _ in selected.skipped]) == (300, [700])


def test_before_plateau_of_a_loss_that_still_improves_is_the_newest_and_says_so(past):
    log_losses(past, [float(20 - index) for index in range(20)]).save(300).save(2000)
    selected = choose(past.directory, "before-plateau")
    assert selected.step == 2000
    assert "was still improving at the end of the log; step 2000 is the newest checkpoint" in selected.explanation


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        (STOPPED_AT_800, r"keeps no checkpoint from before the plateau, its oldest is of step 800: .*--keep_every"),
        (STOPPED_AT_800[:9], r"9 train records with a loss are too few.*there are the steps 800, 1200"),
        ([1.0] * 12, r"the train loss never improved.*there are the steps 800, 1200"),
        ([], r"0 train records"),
    ],
)
def test_before_plateau_that_is_not_there_is_refused(past, losses, message):
    log_losses(past, losses).save(800).save(1200)
    with pytest.raises(Unusable, match=message) as error:
        choose(past.directory, "before-plateau")
    one_line(error)


def test_before_plateau_needs_a_log_that_can_be_read(past):
    log_losses(past, STOPPED_AT_800).save(300)
    pathlib.Path(past.directory.metrics).write_text('{"kind":"train"}\n')
    with pytest.raises(Unusable, match=r"metrics\.jsonl is no metric log .*there is step 300") as error:
        choose(past.directory, "before-plateau")
    one_line(error)


@pytest.mark.parametrize("which", ["", "newest", "-1", "1.5", "1e3", "step 100", "१००", "100_", "Best"])
def test_what_names_no_checkpoint_is_refused(saved, which):
    with pytest.raises(ConfigError, match="expected best, latest, before-plateau or a step such as 500") as error:
        choose(saved.directory, which)
    one_line(error)


def test_run_without_checkpoints_has_none_to_choose(past):
    with pytest.raises(Unusable, match="has no checkpoint"):
        choose(past.directory, "latest")


@pytest.mark.parametrize(
    ("suffix", "step"), [("", 300), ("/", 300), ("@latest", 300), ("@best", 100), ("@200", 200), ("/@2_00", 200)]
)
def test_text_names_a_run_and_one_of_its_checkpoints(saved, suffix, step):
    rank(saved.directory, 300, 100)
    selected = select(saved.directory.path + suffix)
    assert selected.step == step
    assert pathlib.Path(selected.prefix) == pathlib.Path(saved.directory.state_prefix(step))
    assert str(selected).endswith(f" step {step}")


def test_text_names_the_run_as_it_was_given(saved, monkeypatch):
    monkeypatch.chdir(saved.directory.path)
    monkeypatch.chdir("..")
    assert str(select("run@200")) == "run step 200"


def test_paths_may_contain_the_sign(saved, tmp_path):
    path = shutil.copytree(saved.directory.path, tmp_path / "me@home" / "run@best")
    assert select(f"{path}").step == 300
    assert select(f"{path}@200").step == 200


def test_run_without_a_checkpoint_is_refused(past):
    write_run_info(past.directory, "ours")
    for text in (past.directory.path, f"{past.directory.path}@best"):
        with pytest.raises(Unusable, match="has no checkpoint"):
            select(text)


def test_prefix_of_a_tensorflow_checkpoint_is_taken_as_it_is(tmp_path):
    (tmp_path / "ckpt@5.index").write_bytes(b"")
    selected = select(f"{tmp_path}/ckpt@5")
    assert selected.prefix == str(selected) == f"{tmp_path}/ckpt@5"
    assert (selected.step, selected.manifest) == (None, None)


def test_folder_of_one_checkpoint_is_that_checkpoint(saved):
    assert select(saved.directory.checkpoint(200)).prefix == saved.directory.state_prefix(200)


def test_directory_with_a_state_file_means_the_newest_of_it(tmp_path):
    for number in (9, 10):
        (tmp_path / f"ckpt-{number}.index").write_bytes(b"")
    paths = 'model_checkpoint_path: "ckpt-9"\nall_model_checkpoint_paths: "ckpt-10"\n'
    (tmp_path / "checkpoint").write_text(paths)
    assert select(str(tmp_path)).prefix == f"{tmp_path}/ckpt-9"


def test_state_file_of_a_run_means_its_newest_checkpoint(saved):
    pathlib.Path(saved.directory.state_file).write_text('model_checkpoint_path: "step-0000000300/state"')
    assert select(saved.directory.checkpoints).prefix == saved.directory.state_prefix(300)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "names no checkpoint"),
        ("not ours", "names no checkpoint"),
        ('model_checkpoint_path: "gone"', "/gone, which is not there"),
    ],
)
def test_state_file_that_leads_nowhere_is_refused(tmp_path, content, said):
    (tmp_path / "checkpoint").write_text(content)
    with pytest.raises(Unusable, match=said) as error:
        select(str(tmp_path))
    one_line(error)


def test_nothing_is_refused(tmp_path):
    (tmp_path / "weights.h5").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    for name in ("gone", "gone@best", "weights.h5", "empty", "empty@best"):
        with pytest.raises(Unusable, match=r"expected RUN_DIR, RUN_DIR@best, .* prefix") as error:
            select(f"{tmp_path}/{name}")
        one_line(error)


@pytest.mark.parametrize("which", ["", "newest", "best,latest"])
def test_text_that_means_nothing_in_a_run_is_a_mistake_of_the_command_line(saved, which):
    with pytest.raises(ConfigError, match="expected best, latest, before-plateau or a step"):
        select(f"{saved.directory.path}@{which}")
    with pytest.raises(ConfigError, match="expected RUN_DIR"):
        select("")


def test_fingerprint_tells_one_content_from_another(saved):
    prints = [fingerprint(saved.directory.state_prefix(step)) for step in (100, 200, 100)]
    assert prints[0] == prints[2] != prints[1]
    assert prints[0] == saved.directory.files.crc32(saved.directory.state_prefix(100) + ".index")


def test_fingerprint_of_nothing_is_refused(tmp_path):
    with pytest.raises(Unusable, match=r"gone\.index cannot be read: No such file") as error:
        fingerprint(f"{tmp_path}/gone")
    one_line(error)


def test_a_step_of_a_run_is_chosen_without_tensorflow(saved):
    program = (
        "import sys; sys.modules['tensorflow'] = None\n"
        "from trainer.checkpoint.selection import select\n"
        f"print(select({saved.directory.path + '@200'!r}).step)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "200\n", done.stderr


@pytest.mark.parametrize("which", ["latest", "best", "100"])
def test_the_newest_that_can_be_used_says_what_is_best_whichever_is_chosen(past, which):
    for step in (100, 200, 300):
        past.save(step)
    rank(past.directory, 200, 100)
    damage(past.directory, 300)
    assert choose(past.directory, which).newest.step == 200
