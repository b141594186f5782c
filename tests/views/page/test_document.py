"""The page shows what the run directory holds, in figures, tables and words, and needs nothing else."""

from __future__ import annotations

import html
import json
import pathlib
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from trainer.ledger.evaluations import Evaluation, append_evaluation
from trainer.ledger.record import Record

pytestmark = pytest.mark.slow  # Each draws.

ReadPage = Callable[..., Any]


def test_windows_evaluations_checkpoints_attempts_speed_and_stalls_are_drawn(killed: Any, read_page: ReadPage) -> None:
    page = read_page(killed)
    drawn = set(page.groups())
    assert {"train-windows", "not-finite", "checkpoints-kept", "checkpoints-best", "checkpoints-pruned"} <= drawn
    assert {"attempt-1", "attempt-1-lost", "attempt-2", "ended-killed", "ended-preempted"} <= drawn
    for title in ("loss", "checkpoints", "attempts", "learning rate", "examples a second", "stall of a save (ms)"):
        assert title in page.words
    for sign in ("validation", "not finite", "killed", "preempted or interrupted", "steps lost: made again"):
        assert sign in page.words


def test_the_tables_hold_each_checkpoint_and_each_attempt(killed: Any, read_page: ReadPage) -> None:
    page = read_page(killed)
    rows = re.findall(r"<tr>(.*?)</tr>", page.source)
    told = [[html.unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)] for row in rows]
    checkpoints, attempts = ([row for row in told if number in row] for number in ("7 B", "vm-1"))
    assert [(row[0], row[3]) for row in checkpoints] == [("20", "interval"), ("40", "interval")]
    assert attempts[0][:5] == ["1", "vm-1", "0", "25", "5"]
    assert "preempted" in page.text


def test_it_is_one_well_formed_page_without_a_way_to_the_network(killed: Any, read_page: ReadPage) -> None:
    page = read_page(killed)
    assert (page.open, page.unbalanced) == ([], [])
    assert page.source.startswith("<!doctype html>")
    assert not page.of("link") + page.of("img") + page.of("iframe") + page.of("metadata")
    assert not [attributes for _, attributes in page.elements if "src" in attributes]
    links = [str(value) for _, attributes in page.elements for name, value in attributes.items() if "href" in name]
    assert all(link.startswith("#") for link in links)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    referred = [link[1:] for link in links] + re.findall(r"url\(#([^)]*)\)", page.source)
    assert set(referred) <= set(ids)
    # But for the names of namespaces, no address is in it.
    assert not re.findall(r'(?<!xmlns=")(?<!xmlns:xlink=")https?://', page.source)
    policy = next(meta["content"] for meta in page.of("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert str(policy).startswith("default-src 'none'")


def test_figures_speak_to_those_who_do_not_see_them(killed: Any, read_page: ReadPage) -> None:
    page = read_page(killed)
    figures = page.of("svg")
    assert all(figure["role"] == "img" for figure in figures)
    said = str(figures[0]["aria-label"])
    assert (
        "train/loss goes from 2.0000 to 1.2000, between 1.2000 and 2.0000, in 4 records, 1 of them not finite" in said
    )
    assert len(page.of("caption")) >= 2
    assert page.of("html")[0]["lang"] == "en"
    assert any(meta.get("name") == "viewport" for meta in page.of("meta"))


def test_names_from_a_run_are_text_and_never_markup(tmp_path: pathlib.Path, killed: Any, read_page: ReadPage) -> None:
    evil = '<script>alert("1")</script> & $x^$'
    path = tmp_path / evil.replace("/", "\\")
    killed.path.rename(path)
    with (path / "metrics.jsonl").open("ab") as file:
        file.write(Record("train", 50, 200, None, {evil: 1.0, "loss": 1.0}, window=(40, 50)).line())
        file.write(Record("eval", 50, 200, None, {evil: 1.0}, split=evil, weights="raw").line())
    page = read_page(path)
    assert (page.open, page.unbalanced) == ([], [])
    assert not [script for script in re.findall(r"<script[^>]*>[^<]", page.source) if "alert" in script]
    assert "alert(" not in re.sub(r"&lt;script&gt;alert|\\u003cscript>alert", "", page.source)
    assert evil in page.text


def test_the_numbers_under_the_pointer_are_those_of_the_log(killed: Any, read_page: ReadPage) -> None:
    course, costs = read_page(killed).numbers
    curves = {curve["name"]: curve for curve in course["curves"]}
    assert curves["train/loss"] == {
        "name": "train/loss",
        "window": True,
        "steps": [10, 20, 30, 40],
        "values": [2.0, 1.5, 1.2, None],
    }
    assert curves["validation/loss"]["steps"] == [10, 20, 40]
    assert [curve["name"] for curve in costs["curves"]] == ["learning rate"]


def test_several_runs_have_an_overview_and_then_a_section_each(
    tmp_path: pathlib.Path, killed: Any, run: Any, read_page: ReadPage
) -> None:
    other = tmp_path / "other" / "run"
    other.parent.mkdir()
    killed.path.rename(other)
    third = type(run)(tmp_path / "third")
    third.train(10, 1.0)
    page = read_page(other, third, other)
    assert [section.get("id") for section in page.of("section")] == [None, "run-1", "run-2", "run-3"]
    assert [link["href"] for link in page.of("a") if "href" in link] == ["#run-1", "#run-2", "#run-3"]
    # Two folders of one name are told by their paths.
    assert page.words.count(str(other)) > page.words.count("third") > 3
    assert "loss" in page.words


def test_what_differs_between_runs_is_told(tmp_path: pathlib.Path, run: Any, read_page: ReadPage) -> None:
    second = type(run)(tmp_path / "second")
    for one, rate in ((run, "0.1"), (second, "0.2")):
        one.train(10, 1.0)
        (one.path / "flags.txt").write_text(f"--run_dir={one.path}\n--seed=17\n--clip_norm={rate}\n")
    words = read_page(run, second).words
    between = words[words.index("What differs") :]
    assert between.index("clip_norm") < between.index("0.1") < between.index("0.2")
    assert "seed" not in between[: between.index("0.2")]


def test_an_explanation_is_drawn_and_told_the_newest_open(
    killed: Any, read_page: ReadPage, explanation: dict[str, Any]
) -> None:
    killed.explain("step-0000000020.json", {**explanation, "open_steps": [21, 22, 23]})
    killed.explain("step-0000000010.json", {**explanation, "step": 10})
    killed.explain("step-0000000030.json", '{"terms": []}')
    page = read_page(killed)
    assert "generalization (dominates)" in page.words
    assert "of motion" in page.words
    assert "−0.040000" in page.words
    assert "Steps that are in no record yet: 21 to 23." in page.text
    assert "step-0000000030.json is no explanation" in page.text
    for term in ("motion", "generalization"):
        assert [name for name in page.groups() if name.endswith(f"1-waterfall-{term}")]
    opened = page.source.index("to the validation loss of checkpoint 20")
    assert page.source.index("loss of validation, at step 10") > opened


def test_what_was_evaluated_later_is_drawn_where_it_belongs_to_the_run(killed: Any, read_page: ReadPage) -> None:
    def evaluated(step: int, value: float, checkpoint: str, split: str = "test") -> None:
        record = Record("eval", step, step * 4, None, {"loss": value}, split=split, weights="raw")
        append_evaluation(killed.directory, Evaluation(record, checkpoint, "f00d"))

    evaluated(10, 0.7, "0000000a")  # pruned since
    evaluated(20, 0.6, "00000014")
    evaluated(40, 0.5, "0000beef")  # of weights that are not there any more
    evaluated(30, 0.4, "0000001e")  # of a step that the run has not saved
    evaluated(40, 0.9, "00000028", split="validation")  # what the run had measured itself
    curves = {curve["name"]: curve for curve in read_page(killed).numbers[0]["curves"]}
    assert curves["test, later/loss"]["steps"] == [10, 20]
    assert curves["test, later/loss"]["values"] == [0.7, 0.6]
    assert "validation, later/loss" not in curves


def test_a_run_that_has_only_begun_is_a_page(run: Any, read_page: ReadPage) -> None:
    (run.path / "metrics.jsonl").touch()
    assert "There is no checkpoint yet." in read_page(run).text


def test_a_single_step_and_a_metric_that_is_never_finite_are_drawn(run: Any, read_page: ReadPage) -> None:
    run.train(1, None, window=1, learning_rate=None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        page = read_page(run)
    assert "train/loss was never finite" in str(page.of("svg")[0]["aria-label"])
    assert "not-finite" in page.groups()


def test_damage_is_told_and_the_rest_is_shown(killed: Any, read_page: ReadPage) -> None:
    (pathlib.Path(killed.directory.checkpoint(20)) / "manifest.json").write_text("{")
    with (killed.path / "metrics.jsonl").open("ab") as file:
        file.write(b"torn\n")
    page = read_page(killed)
    assert "the checkpoint of step 20 is damaged: its manifest is not JSON" in page.text
    assert "1 line of" in page.text
    assert "the first is line 8: no record" in page.text
    assert "train-windows" in page.groups()


def test_the_same_run_gives_the_same_page(killed: Any, read_page: ReadPage) -> None:
    assert read_page(killed).source == read_page(killed).source


def test_a_long_log_makes_a_small_page_that_shows_the_spike(run: Any, read_page: ReadPage) -> None:
    lines = [
        Record("train", step, step, None, {"loss": 9.5 if step == 6123 else 1.0}, window=(step - 1, step)).line()
        for step in range(1, 20_001)
    ]
    (run.path / "metrics.jsonl").write_bytes(b"".join(lines))
    page = read_page(run)
    assert len(page.source) < 300_000
    assert 9.5 in json.loads(json.dumps(page.numbers[0]["curves"][0]["values"]))
