"""Finding an experiment by the name that the command line gives."""

from __future__ import annotations

import pathlib
import sys
import textwrap

import pytest

from trainer.errors import ConfigError
from trainer.run.catalog import canonical_name, check_name, find_experiment, known_experiments, short_name

MODULE = """
    import dataclasses
    from trainer import Experiment
    from experiments.regression import Regression

    @dataclasses.dataclass(frozen=True)
    class First(Regression):
        pass
"""


@pytest.fixture
def package(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A folder of modules that can be imported."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("mine"):
            del sys.modules[name]


def write(folder: pathlib.Path, name: str, text: str) -> None:
    (folder / f"{name}.py").write_text(textwrap.dedent(text))


def test_the_experiments_that_come_along_are_known_by_their_files() -> None:
    assert {"digits", "regression"} <= set(known_experiments())


def test_a_file_means_its_one_experiment() -> None:
    assert find_experiment("regression").__name__ == "Regression"
    assert find_experiment("digits").__name__ == "Digits"


def test_a_dotted_path_finds_an_experiment_anywhere(package: pathlib.Path) -> None:
    write(package, "mine_one", MODULE)
    kind = find_experiment("mine_one:First")
    assert kind.__name__ == "First"
    assert canonical_name(kind) == "mine_one:First"
    assert find_experiment(canonical_name(kind)) is kind


def test_an_imported_experiment_can_be_named_but_is_not_the_module_s_own(package: pathlib.Path) -> None:
    (package / "mine").mkdir()
    write(package, "mine/inner", MODULE)
    assert find_experiment("mine.inner").__name__ == "First"
    assert find_experiment("mine.inner:Regression").__name__ == "Regression"


def test_a_module_of_several_needs_the_class_and_the_message_names_them(package: pathlib.Path) -> None:
    (package / "mine").mkdir()
    write(package, "mine/two", MODULE + "\n    class Second(First):\n        pass\n")
    with pytest.raises(ConfigError, match=r"mine\.two:First.*mine\.two:Second"):
        find_experiment("mine.two")
    assert find_experiment("mine.two:Second").__name__ == "Second"


@pytest.mark.parametrize("name", ["digitz", "", "Digits", "experiments"])
def test_an_unknown_name_is_refused_and_the_known_ones_are_listed(name: str) -> None:
    with pytest.raises(ConfigError, match=r"digits.*regression.*package\.module:Class") as caught:
        check_name(name)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="digits"):
        find_experiment(name)


@pytest.mark.parametrize("name", ["no_such_package.module:Thing", "experiments.digits:Digitz", ".digits", "a..b", ":X"])
def test_a_path_that_leads_nowhere_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(ConfigError, match="experiment=") as caught:
        find_experiment(name)
    assert "\n" not in str(caught.value)


def test_a_module_that_lacks_an_import_says_which(package: pathlib.Path) -> None:
    write(package, "mine_broken", "import no_such_library\n")
    with pytest.raises(ConfigError, match="no_such_library"):
        find_experiment("mine_broken:Thing")


def test_a_class_that_is_no_experiment_is_not_taken_for_one(package: pathlib.Path) -> None:
    write(package, "mine_plain", "class Thing:\n    pass\n")
    with pytest.raises(ConfigError, match="mine_plain"):
        find_experiment("mine_plain:Thing")


def test_the_folder_of_a_run_is_called_after_the_file_or_the_class(package: pathlib.Path) -> None:
    write(package, "mine_three", MODULE)
    assert short_name(find_experiment("regression")) == "regression"
    assert short_name(find_experiment("mine_three:First")) == "first"
