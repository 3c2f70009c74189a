"""How much commands say with --quiet and --verbose, and completion in a shell."""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Cli


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("option", ["-q", "--quiet"])
def test_quiet_says_nothing_where_there_is_no_answer(folder: Path, cli: Cli, place: str, option: str) -> None:
    command = ("train", folder / "tiny.yaml", "--run-dir", folder / "run", "--set", "train.epochs=1")
    loud = cli(*command)
    assert ("nothing to do" in loud.out, "up to date" in loud.err) == (True, True)
    quiet = cli(option, *command) if place == "before" else cli(*command, option)
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")
    assert cli(*command).err == loud.err, "one command's choice is not the next one's"


def test_quiet_still_tells_errors_and_answers_machines(folder: Path, cli: Cli) -> None:
    answer = cli("-q", "train", folder / "no.yaml")
    assert (answer.code, "there is no recipe" in answer.err) == (2, True)
    asked = ("train", folder / "tiny.yaml", "--run-dir", folder / "run", "--set", "train.epochs=1", "--json", "-q")
    assert '"stages"' in cli(*asked).out


def test_quiet_work_says_nothing_on_the_way(folder: Path, cli: Cli) -> None:
    command = ("train", folder / "tiny.yaml", "--run-dir", folder / "new", "--set", "train.epochs=1", "-q")
    answer = cli(*command)
    assert (answer.code, answer.out, answer.err) == (0, "", "")
    assert (folder / "new/dense/model.safetensors").is_file()


def test_verbose_tells_how_long_stages_took(folder: Path, cli: Cli) -> None:
    command = ("train", folder / "tiny.yaml", "--run-dir", folder / "run")
    assert "train: nothing was done" in cli(*command, "-v", "--set", "train.epochs=1").err
    assert "train: " in cli("-v", *command, "--set", "train.epochs=2").err.splitlines()[-1]


@pytest.mark.parametrize("options", [(), ("-v",), ("--verbose",)])
def test_verbose_tells_where_an_error_came_from(
    tiny_recipe: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    """The user's own code breaks: the message is one line, the traceback is for whoever wants to mend it."""
    (tiny_recipe.parent / "nets_that_break.py").write_text("def build():\n    return 1 / 0\n")
    monkeypatch.syspath_prepend(str(tiny_recipe.parent))
    settings = ("--set", "model={name: factory, factory: 'nets_that_break:build'}")
    answer = cli("train", tiny_recipe, "--run-dir", tiny_recipe.parent / "run", *settings, *options)
    assert answer.code == 2
    assert ('nets_that_break.py", line 2, in build' in answer.err) == bool(options)
    assert answer.err.count("Traceback") == (2 if options else 0), "what the code raised, and madx's word on it"
    assert answer.err.count("ZeroDivisionError: division by zero") == (3 if options else 1)
    assert "typer/" not in answer.err


def test_quiet_and_verbose_are_one_too_many(tiny_recipe: Path, cli: Cli) -> None:
    for command in (("-q", "train", tiny_recipe, "-v"), ("train", "-q", "-v", tiny_recipe)):
        answer = cli(*command)
        assert (answer.code, "give one of them" in answer.err) == (2, True)


@pytest.mark.parametrize(
    ("typed", "offered"), [("madx ver", ["verify"]), ("madx verify --onl", ["--only"]), ("madx verify rec", [])]
)
def test_bash_completes_commands_and_options_and_leaves_paths_to_itself(typed: str, offered: list[str]) -> None:
    """Where nothing is offered, `complete -o default` falls back to names of files."""
    words = typed.split()
    asked = {"_MADX_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(len(words) - 1)}
    answered = subprocess.run([sys.executable, "-m", "madx"], env=asked, capture_output=True, text=True, check=True)
    assert answered.stdout.split() == offered
    script = subprocess.run(
        [sys.executable, "-m", "madx"],
        env={"_MADX_COMPLETE": "source_bash"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "complete -o default -F" in script.stdout
