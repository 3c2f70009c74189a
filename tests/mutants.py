"""Mutation testing: is every small wrong change to what judges noticed by a test? `make mutants`.

A change that no test notices (a survivor) is either a test that is missing, or a change that makes no difference. The
second kind is listed in `equivalent_mutants.txt` with the reason. The exit code is 0 if every survivor is listed and
every listed one survives; 1 if not; 2 if the tests fail on the code as it is; 3 if time ran out before the end.

mutmut and cosmic-ray do the same elsewhere. Here mutmut 3 would leave out every function and class with a decorator,
that is all frozen dataclasses and properties, `Verdict.outcome` among them, and constants; cosmic-ray starts a process
for every mutant, which with torch to import takes longer than the tests themselves. So this one forks after the tests
were collected: a child gives one function another body. Where that is not enough, as for a constant or a default, or
where the collection has run the lines already, madx and the tests are imported anew in a child in which one file of
madx is another. A child runs only the tests that run the lines in question, the cheapest first, until one fails. What
they cost and which lines they run is measured once, on the code as it is.

Results are kept in `build/mutants/` as they come, so a run that is stopped goes on where it was. A killed mutant is
tried again when the test file that killed it changed, a survivor when any of its tests did, both when anything else of
madx or of what tests share did. Tests that start processes of their own see madx as it is, and kill nothing by them.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import hashlib
import importlib
import importlib.util
import inspect
import json
import math
import os
import resource
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, FrameType
from typing import IO, Any, NoReturn

import pytest
from mutations import Mutation, mutations

ROOT = Path(__file__).parent.parent
CONCERNS: Mapping[str, tuple[Sequence[str], Sequence[str]]] = {
    "masks": (("madx/prune/masks.py",), ("tests/prune/test_masks.py",)),
    **{
        name: ((f"madx/stats/{name}.py",), (f"tests/stats/test_{name}.py",))
        for name in ("search", "shares", "skewness", "means", "ranks", "percentiles", "paired", "ratios", "betting")
    },
    "checks": (("madx/stats/checks.py",), ("tests/stats/test_shares.py", "tests/stats/test_paired.py")),
    "judging": (
        tuple(f"madx/verify/{name}.py" for name in ("gates", "verdict", "sequential", "limits", "findings", "signs")),
        tuple(f"tests/verify/test_{name}.py" for name in ("gates", "image_findings", "lacking", "signs")),
    ),
    "speed": (
        ("madx/verify/speed_limits.py",),
        tuple(f"tests/verify/test_{name}.py" for name in ("gates", "two_clocks", "loads_and_images", "noise")),
    ),
    "feasible": (("madx/verify/feasible.py",), ("tests/verify/test_feasible.py",)),
}
"""Which tests concern which files."""
EQUIVALENT = "tests/equivalent_mutants.txt"
KEPT = "build/mutants"
SPARE_CPU, TIMES = 5, 4
"""Seconds of CPU that a test may take beyond so many times its own: then it turns in a circle."""
COLLECTING_CPU = 60
"""Seconds that importing the tests may take."""
WAITED = 3600
"""Seconds after which a child that does not even use the CPU is ended."""


@dataclass(frozen=True)
class Concern:
    """A row of CONCERNS, and what is known of its tests."""

    files: tuple[Path, ...]
    tests: tuple[str, ...]
    lines: Mapping[str, Mapping[str, Sequence[int]]]
    """{test: {file: lines that it runs}}"""
    collecting: Mapping[str, Sequence[int]]
    """{file: lines that are run when it is imported, or while tests are collected}"""
    cost: Mapping[str, float]
    """Seconds of CPU of each test."""

    def tests_of(self, path: str, mutation: Mutation) -> list[str]:
        """Those that can notice it, the cheapest first."""

        def runs(lines: Mapping[str, Sequence[int]]) -> bool:
            return any(line in mutation.lines for line in lines.get(path, ()))

        ran = sorted((test for test in self.lines if runs(self.lines[test])), key=self.cost.__getitem__)
        if not runs(self.collecting):
            return ran
        others = [test for test in self.lines if test not in set(ran)]
        return ran + sorted(others, key=lambda test: (path not in self.lines[test], self.cost[test]))


class Tracer:
    """Which lines of some files are run by which test; a pytest plugin."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = {str(path): str(path.relative_to(Path.cwd())) for path in files}
        self.collecting: dict[str, set[int]] = defaultdict(set)
        self.lines: dict[str, dict[str, set[int]]] = {}
        self.cost: dict[str, float] = {}
        self._set_up: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
        self._now = self.collecting
        self._began = 0.0

    def start(self) -> None:
        """From here on."""
        sys.settrace(self._called)

    def _called(self, frame: FrameType, _event: str, _argument: object) -> Callable[..., Any] | None:
        path = self.files.get(frame.f_code.co_filename)
        if path is None:
            return None
        self._now[path].add(frame.f_lineno)

        def line(frame: FrameType, _event: str, _argument: object) -> Callable[..., Any]:
            self._now[path].add(frame.f_lineno)
            return line

        return line

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Iterator[None]:
        """What is set up may be shared with other tests of the file, and counts for all of them."""
        self._began = time.process_time()
        self._now = self._set_up[item.nodeid.split("::")[0]]
        _forget()
        yield
        self._now = self.lines.setdefault(item.nodeid, defaultdict(set))

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Iterator[None]:
        """The last of it."""
        yield
        self.cost[item.nodeid] = time.process_time() - self._began
        self._now = self.collecting

    def to_json(self) -> dict[str, Any]:
        """Sets become lists."""

        def plain(lines: Mapping[str, set[int]]) -> dict[str, list[int]]:
            return {path: sorted(numbers) for path, numbers in lines.items()}

        there = list(sys.modules.items())
        imported = [name for name, module in there if "site-packages" in str(_file_of(module))]
        rooms = [name for name, _ in there if name.startswith("madx.")]
        for test, lines in self.lines.items():
            for path, numbers in self._set_up[test.split("::")[0]].items():
                lines[path] |= numbers
        lines = {test: plain(lines) for test, lines in self.lines.items()}
        known = {"lines": lines, "collecting": plain(self.collecting), "cost": self.cost}
        return known | {"imported": imported, "rooms": rooms}


class Judge:
    """Which test fails first, each held to its time; a pytest plugin."""

    def __init__(self, cost: Mapping[str, float]) -> None:
        self.cost = cost
        self.failed = ""

    def pytest_sessionstart(self) -> None:
        """No smaller example is looked for: one is enough."""
        from hypothesis import Phase, settings

        settings.register_profile("mutants", settings(), phases=(Phase.explicit, Phase.generate), database=None)
        settings.load_profile("mutants")

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """From here on, for this test."""
        limit_cpu(SPARE_CPU + TIMES * self.cost[item.nodeid])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """The first that fails."""
        if report.failed and not self.failed:
            self.failed = report.nodeid

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Or that cannot even be imported."""
        if report.failed and not self.failed:
            self.failed = report.nodeid


class Chosen(Judge):
    """Some tests, in this order."""

    def __init__(self, tests: Sequence[str], cost: Mapping[str, float]) -> None:
        super().__init__(cost)
        self.order = {test: place for place, test in enumerate(tests)}
        limit_cpu(COLLECTING_CPU)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """The hook's own list."""
        items[:] = sorted((item for item in items if item.nodeid in self.order), key=lambda i: self.order[i.nodeid])


@dataclass(frozen=True)
class Trial:
    """A mutation, and the tests that may notice it, in order."""

    file: Path
    mutation: Mutation
    tests: Sequence[str]
    note: Callable[[str], None]
    """What is done with the answer."""


class Habit:
    """Who noticed a change of a function often notices the next: such tests go first."""

    def __init__(self) -> None:
        self.noticed: dict[str, Counter[str]] = defaultdict(Counter)

    def first(self, trial: Trial) -> list[str]:
        """The trial's tests in that order."""
        often = self.noticed[trial.mutation.where]
        return sorted(trial.tests, key=lambda test: -often[test])

    def note(self, trial: Trial, by: str) -> None:
        """The answer to a trial."""
        self.noticed[trial.mutation.where][by] += 1
        trial.note(by)


class Collected(Judge):
    """Instead of running what was collected: forks in which one function has another body."""

    def __init__(self, trials: Sequence[Trial], cost: Mapping[str, float], habit: Habit, until: float) -> None:
        super().__init__(cost)
        self.trials, self.habit, self.until = trials, habit, until

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """True: done."""
        items = {item.nodeid: item for item in session.items}
        gc.collect()
        gc.freeze()
        for trial in self.trials:
            if time.monotonic() >= self.until:
                break
            tests = self.habit.first(trial)
            found = in_a_child(lambda trial=trial, tests=tests: self._run(trial, tests, items))  # type: ignore[misc]
            if (by := found.get("by", found.get("ended"))) is not None:
                self.habit.note(trial, str(by))
        return True

    def _run(self, trial: Trial, tests: Sequence[str], items: Mapping[str, pytest.Item]) -> dict[str, str | None]:
        """In the fork; None where another body is not the whole change."""
        if not _give_body(trial):
            return {"by": None}
        _forget()
        chosen = [items[test] for test in tests]
        for item, following in zip(chosen, [*chosen[1:], None], strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if self.failed:
                break
        return {"by": self.failed}


def _give_body(trial: Trial) -> bool:
    """Whether the change is in the body of a function that is there, which then has it."""
    module = sys.modules[_module_of(trial.file)]
    for code in _functions_of(compile(trial.mutation.text, str(trial.file), "exec", dont_inherit=True)):
        found: Any = module
        for name in code.co_qualname.split("."):
            found = vars(found).get(name)
            if found is None:
                return False
        found = getattr(found, "fget", getattr(found, "func", getattr(found, "__func__", found)))
        found = inspect.unwrap(found)
        if inspect.isfunction(found) and found.__code__ != code:
            found.__code__ = code
            return True
    return False


def _functions_of(code: CodeType) -> Iterator[CodeType]:
    """Of a module and its classes; a function's own functions are part of it."""
    for inner in code.co_consts:
        if isinstance(inner, CodeType) and not inner.co_name.startswith("<"):
            yield from [inner] if inner.co_flags & inspect.CO_OPTIMIZED else _functions_of(inner)


def _module_of(file: Path) -> str:
    return ".".join(file.relative_to(Path.cwd()).with_suffix("").parts)


class Changed(SourceFileLoader):
    """A module whose text is another than its file's; a finder of itself too."""

    def __init__(self, name: str, path: str, text: str) -> None:
        super().__init__(name, path)
        self.text = text

    def get_code(self, _name: str) -> CodeType:
        """Of the text."""
        return compile(self.text, self.path, "exec", dont_inherit=True)

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        """Of this module alone."""
        if name != self.name:
            return None
        return importlib.util.spec_from_file_location(name, self.path, loader=self)


def run_tests(tests: Sequence[str], *plugins: object, stop: bool) -> int:
    """Pytest's exit code."""
    files = sorted({test.split("::")[0] for test in tests})
    options = [
        "-q",
        "--no-header",
        "--tb=no",
        "--assert=plain",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:randomly",
        "--hypothesis-seed=0",
    ]
    return int(pytest.main([*options, *(["-x"] if stop else []), *files], plugins=list(plugins)))


def limit_cpu(seconds: float) -> None:
    """This process ends if it uses more from now on."""
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time() + seconds), most))


def in_a_child(work: Callable[[], Mapping[str, Any]], *, waited: float = WAITED) -> dict[str, Any]:
    """What `work` returns, done in a fork of this process; {"ended": why} if it was ended."""
    with tempfile.TemporaryFile("w+") as answer:
        child = os.fork()
        if child == 0:
            _work_and_end(work, answer)
        status = _end_of(child, waited)
        if status is None:
            return {"ended": "it stood still"}
        if os.WIFSIGNALED(status):
            return {"ended": signal.Signals(os.WTERMSIG(status)).name}
        if os.WEXITSTATUS(status):
            return {"ended": "an exception"}
        answer.seek(0)
        result: dict[str, Any] = json.load(answer)
        return result


def _work_and_end(work: Callable[[], Mapping[str, Any]], answer: IO[str]) -> NoReturn:
    """In the child, of which nobody reads what it says."""
    code = 1
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        json.dump(work(), answer)
        answer.flush()
        code = 0
    finally:
        os._exit(code)


def _end_of(child: int, waited: float) -> int | None:
    """Its status; None if it had to be ended."""
    began = time.monotonic()
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        time.sleep(0.005)
        if time.monotonic() - began > waited:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
    return ended[1]


def measure(files: Sequence[Path], tests: Sequence[str]) -> dict[str, Any]:
    """The tests on the code as it is: which lines each runs, and what it costs."""

    def work() -> dict[str, Any]:
        tracer = Tracer(files)
        tracer.start()
        code = run_tests(tests, tracer, stop=False)
        sys.settrace(None)
        return tracer.to_json() | {"code": code}

    return in_a_child(work, waited=math.inf)


def try_out(path: Path, mutation: Mutation, tests: Sequence[str], cost: Mapping[str, float]) -> str:
    """The test that notices it, or why its child was ended; empty if none does."""
    name = _module_of(path)

    def work() -> dict[str, Any]:
        sys.meta_path.insert(0, Changed(name, str(path), mutation.text))
        chosen = Chosen(tests, cost)
        code = run_tests(tests, chosen, stop=True)
        return {"by": chosen.failed or (f"pytest's exit code {code}" if code else "")}

    found = in_a_child(work)
    return str(found.get("by", found.get("ended")))


def load(names: Sequence[str]) -> None:
    """Other packages, once for all children."""
    for name in names:
        if name.split(".")[0] not in ("__main__", "conftest"):
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    gc.collect()
    gc.freeze()


def _forget() -> None:
    """Caches of madx: what one test leaves in them, the next would not run."""
    for name, module in list(sys.modules.items()):
        if name.startswith("madx."):
            for value in list(vars(module).values()):
                if isinstance(value, functools._lru_cache_wrapper):
                    value.cache_clear()


def _is_below(name: str, file: Path) -> bool:
    """Whether a module of madx cannot have imported the file, being of a lower layer."""
    from test_architecture import LAYERS  # which imports madx, and that is to be the one of the root

    own, other = _module_of(file).split(".")[1], name.split(".")[1]
    return LAYERS.get(other, 9) < LAYERS.get(own, 0)


def _file_of(module: object) -> str | None:
    return getattr(getattr(module, "__spec__", None), "origin", None)


def digest(paths: Sequence[Path]) -> str:
    """Of the files' names and contents."""
    whole = hashlib.sha256()
    for path in sorted(paths):
        whole.update(str(path).encode() + b"\0" + path.read_bytes() + b"\0")
    return whole.hexdigest()[:16]


def test_files(tests: Sequence[str]) -> list[Path]:
    """Of folders and files."""
    places = [Path(test) for test in tests]
    return sorted(file for place in places for file in (place.glob("test_*.py") if place.is_dir() else [place]))


def shared() -> str:
    """Digest of what every result rests on: madx, and what the tests share."""
    others = {path for path in Path("tests").rglob("*.py") if not path.name.startswith("test_")}
    own = {Path("tests/mutants.py"), Path("tests/mutations.py")}
    return digest([*Path("madx").rglob("*.py"), *(others - own)])


def read_equivalent(text: str) -> dict[tuple[str, str, str, str, int], str]:
    """{(file, where, before, after, number): reason} of entries between empty lines; ValueError if one is not whole.

    An entry: `file function [#number]`, then the line before after `- `, the changed one after `+ `, the reason after
    `= `, on as many lines as it takes. What stands before the first entry with `#` is for readers.
    """
    found: dict[tuple[str, str, str, str, int], str] = {}
    for block in filter(None, (part.strip() for part in text.split("\n\n"))):
        head, *rest = block.splitlines()
        if head.startswith("#"):
            continue
        by_sign = {sign: " ".join(line[2:] for line in rest if line.startswith(sign)) for sign in ("- ", "+ ", "= ")}
        names = head.split()
        number = int(names.pop().removeprefix("#")) if names[-1].startswith("#") else 1
        if not by_sign["- "] or not by_sign["= "] or len(names) not in (1, 2):
            raise ValueError(f"an entry of {EQUIVALENT} wants a file, '- ', '+ ' and a reason after '= ':\n{block}")
        key = (names[0], names[1] if len(names) == 2 else "", by_sign["- "], by_sign["+ "], number)
        if key in found:
            raise ValueError(f"an entry of {EQUIVALENT} stands there twice:\n{block}")
        found[key] = by_sign["= "]
    return found


def entry(path: str, where: str, before: str, after: str, number: int) -> str:
    """As it would stand in the list, but for the reason."""
    return f"{path} {where}".rstrip() + (f" #{number}" if number > 1 else "") + f"\n- {before}\n+ {after}"


class Results:
    """What is known from earlier runs, a line each, the last one counts."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.known: dict[str, dict[str, str]] = {}
        self.read()

    def read(self) -> None:
        """What is there by now."""
        if self.place.exists():
            for line in self.place.read_text().splitlines():
                with contextlib.suppress(ValueError):  # the last line of a run that was killed
                    one = json.loads(line)
                    self.known[one["key"]] = one

    def find(self, key: str, basis: str, tests: str) -> str | None:
        """Who noticed it, empty for nobody; None if that is not known of these files."""
        one = self.known.get(key)
        if one is None or one["basis"] != basis:
            return None
        killer = one["by"].split("::")[0]
        current = digest([Path(killer)]) if killer.endswith(".py") and Path(killer).exists() else tests
        return one["by"] if one["tests"] == current else None

    def last_killer(self, key: str) -> str:
        """The test to begin with."""
        return self.known.get(key, {}).get("by", "")

    def add(self, key: str, basis: str, tests: str, by: str) -> None:
        """Written at once."""
        killer = by.split("::")[0]
        current = digest([Path(killer)]) if killer.endswith(".py") else tests
        self.known[key] = {"key": key, "basis": basis, "tests": current, "by": by}
        with self.place.open("a") as file:
            file.write(json.dumps(self.known[key]) + "\n")


def concern_of(name: str, row: tuple[Sequence[str], Sequence[str]], kept: Path, basis: str) -> Concern | str:
    """Measured, or as it was measured; why not, if the tests fail as it is."""
    patterns, tests = row
    files = tuple(path.resolve() for pattern in patterns for path in sorted(Path().glob(pattern)))
    place, state = kept / f"{name}.json", basis + digest(test_files(tests))
    known = json.loads(place.read_text()) if place.exists() else {}
    if known.get("state") != state:
        known = measure(files, tests) | {"state": state}
        if known.get("code") != 0:
            return f"{name}: the tests do not pass as it is ({known.get('ended') or known['code']}): {', '.join(tests)}"
        if not known["collecting"]:
            return f"{name}: the tests import none of {', '.join(patterns)}: is it another madx that they find?"
        place.write_text(json.dumps(known))
    load([*known["imported"], *(name for name in known["rooms"] if all(_is_below(name, file) for file in files))])
    return Concern(files, tuple(tests), known["lines"], known["collecting"], known["cost"])


def say(sentence: str) -> None:
    """At once, also into a file."""
    sys.stdout.write(sentence + "\n")
    sys.stdout.flush()


def try_file(file: Path, concern: Concern, results: Results, basis: str, *, until: float) -> None:
    """Every mutation of a file of which nothing is known yet, as far as the time goes."""
    path, tests_now = str(file.relative_to(Path.cwd())), digest(test_files(concern.tests))
    habit = Habit()
    swapped: list[Trial] = []
    anew: list[Trial] = []
    for one in mutations(file.read_text()):
        key = key_of(path, one)
        if results.find(key, basis, tests_now) is not None:
            continue
        tests, last = concern.tests_of(path, one), results.last_killer(key)
        tests.sort(key=lambda test: test != last)  # a sort that keeps the order of the others
        trial = Trial(file, one, tests, functools.partial(results.add, key, basis, tests_now))
        again = not one.where or any(line in one.lines for line in concern.collecting.get(path, ()))
        (anew if again or not tests else swapped).append(trial)
    if swapped:
        wanted = [test for trial in swapped for test in trial.tests]
        collected = Collected(swapped, concern.cost, habit, until)
        in_a_child(lambda: {"code": run_tests(wanted, collected, stop=True)}, waited=math.inf)
        results.read()
        anew += [one for one in swapped if results.find(key_of(path, one.mutation), basis, tests_now) is None]
    for trial in anew:
        if time.monotonic() >= until:
            break
        habit.note(trial, try_out(file, trial.mutation, habit.first(trial), concern.cost) if trial.tests else "")


def try_row(name: str, row: tuple[Sequence[str], Sequence[str]], files: Sequence[str], until: float) -> dict[str, Any]:
    """In a process of its own, as what is loaded for one row may have imported the files of another.

    Returns:
        outcomes: (file, name, who noticed it or None) of every mutation; refused: why nothing was tried, or nothing.
    """
    kept, basis = Path(KEPT), shared()
    results, concern = Results(kept / "results.jsonl"), concern_of(name, row, kept, basis)
    if isinstance(concern, str):
        return {"refused": concern, "outcomes": []}
    tests_now, outcomes = digest(test_files(concern.tests)), []
    for file in concern.files:
        path = str(file.relative_to(Path.cwd()))
        if path in files:
            try_file(file, concern, results, basis, until=until)
            for one in mutations(file.read_text()):
                by = results.find(key_of(path, one), basis, tests_now)
                outcomes.append((path, one.name, by))
    return {"refused": "", "outcomes": outcomes}


def key_of(path: str, mutation: Mutation) -> str:
    """Of a mutation among all."""
    return json.dumps([path, *mutation.name])


def main(root: Path, concerns: Mapping[str, tuple[Sequence[str], Sequence[str]]], arguments: Sequence[str]) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("files", nargs="*", help="of madx, for example madx/stats/ranks.py; without any, all")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="how long to go on; a later run goes on")
    options = parser.parse_args(arguments)
    os.chdir(root)
    sys.path[:0] = [str(root), str(root / "tests")]
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(root / KEPT / "hypothesis")
    kept = Path(KEPT)
    kept.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + options.seconds
    listed = read_equivalent(Path(EQUIVALENT).read_text()) if Path(EQUIVALENT).exists() else {}
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    wrong: list[str] = []
    for name, row in concerns.items():
        asked = [path for pattern in row[0] for path in map(str, Path().glob(pattern))]
        if options.files and not set(asked) & set(options.files):
            continue
        files = [path for path in asked if not options.files or path in options.files]
        say(f"{name}: {', '.join(files)}")
        found = in_a_child(functools.partial(try_row, name, row, files, until), waited=math.inf)
        if "ended" in found or found["refused"]:
            say(found.get("refused") or f"{name}: this tool ended: {found['ended']}")
            return 2
        for path, name_of, by in found["outcomes"]:
            reason = listed.pop((path, *name_of), None)
            outcome = "left" if by is None else "killed" if by else "equivalent" if reason else "survived"
            counts[path][outcome] += 1
            shown = entry(path, *name_of)
            if outcome == "survived":
                wrong.append(f"no test notices, and it is not listed:\n{shown}")
            if outcome == "killed" and reason:
                wrong.append(f"listed as equivalent, and noticed by {by}:\n{shown}")
    gone = [key for key in listed if key[0] in counts]
    wrong += [f"listed, and no such change is made to {key[0]}:\n- {key[2]}\n+ {key[3]}" for key in gone]
    return conclude(counts, wrong)


def conclude(counts: Mapping[str, Counter[str]], wrong: Sequence[str]) -> int:
    """The table, what is wrong, and the exit code."""
    for sentence in wrong:
        say(f"\n{sentence}")
    total: Counter[str] = Counter()
    columns = ("killed", "equivalent", "survived", "left")
    say(f"\n{'':28}{'mutants':>9}" + "".join(f"{name:>12}" for name in columns))
    for path, row in [*sorted(counts.items()), ("in all", total)]:
        say(f"{path:28}{sum(row.values()):9}" + "".join(f"{row[name]:12}" for name in columns))
        total += row if row is not total else Counter()
    if wrong:
        return 1
    return 3 if total["left"] else 0


if __name__ == "__main__":
    sys.exit(main(ROOT, CONCERNS, sys.argv[1:]))
