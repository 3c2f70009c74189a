"""A job that fails says why once: who speaks, what the launcher is told, and what a lost connection means."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from torch.distributed import DistBackendError, DistNetworkError, DistStoreError

from madx.distributed import announce, failures, leave_note, lost_contact
from madx.errors import ExitCode

JOB = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
CLOSED = "[/third_party/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:33. Good luck\nstack"


@pytest.fixture
def in_a_job(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in JOB.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    return monkeypatch


class Board:
    """The launcher's store, as far as failures use it."""

    def __init__(self) -> None:
        self.count = 0
        self.words: dict[str, bytes] = {}

    def add(self, _: str, amount: int) -> int:
        self.count += amount
        return self.count

    def set(self, key: str, value: str) -> None:
        self.words[key] = value.encode()

    def get(self, key: str) -> bytes:
        return self.words[key]

    def wait(self, keys: list[str], limit: timedelta) -> None:
        assert limit.total_seconds() < 10, "nobody waits long for the words of a process that may be dead"
        if not self.words.keys() >= set(keys):
            raise DistStoreError("wait timeout")


@pytest.fixture
def slept(in_a_job: pytest.MonkeyPatch) -> list[float]:
    """How long a process waited, without waiting."""
    found: list[float] = []
    in_a_job.setattr(failures.time, "sleep", found.append)
    in_a_job.setattr(failures.socket, "gethostname", lambda: "node7")
    return found


def note(file: Path) -> str:
    return str(json.loads(file.read_text())["message"]["message"])


def test_alone_a_process_speaks_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert announce("no") == "no"
    assert lost_contact(RuntimeError(CLOSED)) is None


def test_the_first_one_speaks_and_the_others_pass_it_on(
    in_a_job: pytest.MonkeyPatch, slept: list[float], tmp_path: Path
) -> None:
    board = Board()
    in_a_job.setattr(failures, "launcher_store", lambda: board)
    in_a_job.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "note"))
    reason = "process 1 of 2 on node7: the disk is full"
    assert announce("the disk is full") == reason
    assert (slept, note(tmp_path / "note")) == ([failures._COURTESY], f"madx: {reason}")
    slept.clear()
    in_a_job.setenv("RANK", "0")
    in_a_job.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "note of process 0"))
    assert announce("connection closed by peer") is None
    assert slept == [failures._FAREWELL], "process 0 asks at once, and stays until the other was heard"
    assert note(tmp_path / "note of process 0") == f"madx: {reason}"


def test_a_command_that_never_joined_waits_for_nobody(in_a_job: pytest.MonkeyPatch, slept: list[float]) -> None:
    """A job script may export a launcher's variables to commands that are no part of the job."""
    in_a_job.delenv("TORCHELASTIC_USE_AGENT_STORE")
    in_a_job.setattr(failures, "launcher_store", lambda: pytest.fail("it looks for a store"))
    assert (announce("no such recipe"), slept) == ("no such recipe", [])


def test_process_0_says_no_number(in_a_job: pytest.MonkeyPatch, slept: list[float]) -> None:
    in_a_job.setattr(failures, "launcher_store", Board)
    in_a_job.setenv("RANK", "0")
    assert (announce("the recipe is wrong"), slept) == ("the recipe is wrong", [])


@pytest.mark.parametrize("error", [DistNetworkError("refused"), ValueError("port"), None])
def test_nobody_is_silent_for_one_that_is_gone(
    in_a_job: pytest.MonkeyPatch, slept: list[float], error: Exception | None
) -> None:
    """The launcher is, or the process that was first."""
    board = Board()
    board.add("the one who was first", 1)

    def store() -> Board:
        if error is not None:
            raise error
        return board

    in_a_job.setattr(failures, "launcher_store", store)
    assert announce("no") == "process 1 of 2 on node7: no"
    assert slept == [failures._COURTESY]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError(CLOSED), "(Connection closed by peer [127.0.0.1]:33)"),
        (DistBackendError("NCCL error: remote exit"), "(NCCL error: remote exit)"),
        (DistNetworkError("timed out"), "(timed out)"),
        (DistBackendError(""), "(DistBackendError)"),
    ],
)
@pytest.mark.usefixtures("in_a_job")
def test_a_lost_connection_is_no_bug(error: RuntimeError, reason: str) -> None:
    found = lost_contact(error)
    assert found is not None
    assert found.exit_code == ExitCode.INCONCLUSIVE
    assert reason in str(found)


@pytest.mark.parametrize("error", [RuntimeError("shapes [2] and [3]"), ValueError(CLOSED), KeyError("gloo")])
@pytest.mark.usefixtures("in_a_job")
def test_a_bug_is_no_lost_connection(error: Exception) -> None:
    assert lost_contact(error) is None


def test_torchruns_summary_ends_with_the_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

    file = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
    leave_note("the disk is full")
    assert note(file) == "madx: the disk is full"
    failure = ProcessFailure(local_rank=0, pid=1, exitcode=2, error_file=str(file))
    assert "traceback : madx: the disk is full" in ChildFailedError("madx", {0: failure}).format_msg()


def test_without_a_place_for_it_no_note_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)
    leave_note("lost")
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "no" / "folder"))
    leave_note("lost")
    assert list(tmp_path.iterdir()) == []
