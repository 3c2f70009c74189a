"""What the machine offers, where the kernel and the driver are played."""

import ctypes
import os
import subprocess
import sys

import pytest

from madx import machine


def test_hyper_threads_of_one_core_count_once(tmp_path):
    for cpu, siblings in {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}.items():
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(siblings + "\n")
    assert machine.physical_cores({0, 1, 2, 3}, tmp_path) == 2
    assert machine.physical_cores({0, 2}, tmp_path) == 1
    assert machine.physical_cores({0, 1, 2, 3}, tmp_path / "none") == 4
    assert 1 <= machine.physical_cores() <= len(machine.usable_cpus())


class FakeDriver:
    """Devices whose handles are not their numbers."""

    def __init__(self, names, *, error=0):
        self._names, self._error = names, error

    def cuInit(self, _flags):  # noqa: N802
        return self._error

    def cuDeviceGetCount(self, count):  # noqa: N802
        count._obj.value = len(self._names)
        return 0

    def cuDeviceGet(self, device, number):  # noqa: N802
        device._obj.value = 10 + number
        return 0

    def cuDeviceGetName(self, name, length, device):  # noqa: N802
        found = self._names[device.value - 10]
        assert len(found) < length
        name.value = found.encode()
        return 0 if found else 1


@pytest.mark.parametrize(
    ("driver", "names"),
    [
        (FakeDriver(["NVIDIA A", "NVIDIA B"]), ["NVIDIA A", "NVIDIA B"]),
        (FakeDriver([]), []),
        (FakeDriver(["NVIDIA A"], error=100), []),
        (FakeDriver([""]), ["NVIDIA GPU without a name"]),
        (None, []),
    ],
)
def test_gpus_are_those_that_the_driver_names(driver, names, monkeypatch):
    def load(_name):
        if driver is None:
            raise OSError("libcuda.so.1: cannot open shared object file")
        return driver

    monkeypatch.setattr(ctypes, "CDLL", load)
    assert machine.gpu_names() == names


def test_the_machine_is_described_in_json():
    found = machine.describe_machine()
    assert set(found) == {"processor", "cpus", "gpus", "system"}
    assert found["processor"]
    assert found["cpus"] >= 1


@pytest.mark.parametrize(
    ("given", "kept"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")],
)
def test_threads_that_wait_soon_sleep_unless_the_user_wants_otherwise(given: dict[str, str], kept: str) -> None:
    """OpenMP has read it by the time torch is there: the command line sets it before."""
    code = (
        "import contextlib, os, sys; sys.argv = ['madx', '--version']\nfrom madx.cli import main\n"
        "with contextlib.suppress(SystemExit): main()\nprint(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    )
    env = {key: value for key, value in os.environ.items() if key not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")} | given
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"{kept} False"
