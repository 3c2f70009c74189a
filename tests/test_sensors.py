"""Sensors against a made-up /proc and /sys, and against this machine, where a neighbour is really let loose."""

import ctypes
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from madx.errors import MadxError
from madx.sensors import SOURCES, Sensors, Watch, check_names


class FakeMachine:
    """A folder that looks like / for CPU 0 and 1."""

    def __init__(self, root):
        self.root, self.now = root, 0.0
        self.write("proc/stat", "cpu  9 9 9 9\n" + self.ticks(0, 0, 0))

    def write(self, name, text):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def ticks(self, busy, idle, steal):
        return "".join(f"cpu{cpu} {busy} 0 0 {idle} 0 0 0 {steal} 0 0\n" for cpu in (0, 1)) + "intr 1 2 3\n"

    def sensors(self, monkeypatch):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
        monkeypatch.setattr(time, "process_time", lambda: 0.0)
        return Sensors(root=self.root, clock=lambda: self.now)


@pytest.fixture
def machine(tmp_path):
    return FakeMachine(tmp_path)


def test_a_source_that_is_not_there_is_absent_and_not_zero(machine, monkeypatch):
    reading = machine.sensors(monkeypatch).read()
    assert set(reading) <= {"load"}, "the folder has neither clocks nor temperatures, and no time has passed"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"proc/cpuinfo": "cpu MHz\t: 2000.0\nflags: x\ncpu MHz\t: 3000.0\ncpu MHz\t: 9999.0\n"}, {"cpu_mhz": 2500.0}),
        ({"proc/cpuinfo": "cpu MHz\t: unknown\n"}, {}),
        ({f"sys/devices/system/cpu/cpu{n}/cpufreq/scaling_cur_freq": f"{n + 1}000000\n" for n in (0, 1, 2)},
         {"cpu_mhz": 1500.0}),
        ({"sys/class/thermal/thermal_zone0/temp": "41000\n", "sys/class/thermal/thermal_zone1/temp": "-5000\n"},
         {"cpu_celsius": 41.0}),
        ({"sys/class/thermal/thermal_zone0/temp": "broken\n"}, {}),
    ],
)  # fmt: skip
def test_clocks_and_temperatures(machine, monkeypatch, files, expected):
    for name, text in files.items():
        machine.write(name, text)
    reading = machine.sensors(monkeypatch).read()
    assert {name: value for name, value in reading.items() if name in ("cpu_mhz", "cpu_celsius")} == expected


def test_shares_of_the_cpus_are_of_the_usable_ones_since_the_last_reading(machine, monkeypatch):
    sensors = machine.sensors(monkeypatch)
    machine.now = 0.1
    assert "others" not in sensors.read(), "a tenth of a second is ten ticks"
    machine.now = 1.0
    machine.write("proc/stat", machine.ticks(busy=30, idle=60, steal=10))
    first = sensors.read()
    assert (first["others"], first["steal"]) == pytest.approx((0.3, 0.25))
    machine.now = 1.1  # within the window the last whole one stands
    assert sensors.read()["others"] == first["others"]
    machine.now = 2.0
    machine.write("proc/stat", machine.ticks(busy=30, idle=160, steal=10))
    assert (sensors.read()["others"], sensors.read()["steal"]) == (0.0, 0.0)


def test_what_a_hypervisor_took_is_that_of_the_worst_cpu_and_never_less_than_nothing(machine, monkeypatch):
    def rows(*cpus):
        return "".join(f"cpu{n} {busy} 0 0 {idle} 0 0 0 {steal} 0 0\n" for n, (busy, idle, steal) in enumerate(cpus))

    machine.write("proc/stat", rows((0, 0, 0), (0, 0, 0)))
    sensors = machine.sensors(monkeypatch)
    for second, (cpus, expected) in enumerate(
        [
            (((30, 60, 10), (60, 40, 0)), 0.25),  # a neighbour on the other CPU dilutes nothing
            (((34, 155, 11), (64, 135, 1)), 0.2),  # a thread that wanders: little work on either
            (((84, 205, 1), (64, 135, 1)), 0.0),  # the counter fell: a guest that was moved
        ],
        start=1,
    ):
        machine.now = float(second)
        machine.write("proc/stat", rows(*cpus))
        assert sensors.read()["steal"] == pytest.approx(expected)
    machine.now = 4.0
    machine.write("proc/stat", rows((200, 300, 5)))
    assert "steal" not in sensors.read(), "a CPU went offline"


def test_own_time_is_not_that_of_others(machine, monkeypatch):
    sensors = machine.sensors(monkeypatch)
    ticks = os.sysconf("SC_CLK_TCK")
    monkeypatch.setattr(time, "process_time", lambda: 0.2)
    machine.now = 1.0
    machine.write("proc/stat", machine.ticks(busy=0.5 * ticks, idle=0.5 * ticks, steal=0))
    assert sensors.read()["others"] == pytest.approx((1.0 - 0.2) / 2.0)


def test_waiting_is_that_of_the_thread_that_waited_most(machine, monkeypatch):
    def threads(**waited):
        for name, value in waited.items():
            machine.write(f"proc/self/task/{name}/schedstat", f"123 {round(1e9 * value)} 5\n")

    threads(main=1.0, pool=7.0)
    sensors = machine.sensors(monkeypatch)
    threads(main=1.2, pool=7.1, new=90.0)
    machine.now = 2.0
    assert sensors.read()["waiting"] == pytest.approx(0.2 / 2.0)
    assert "waiting" not in sensors.read(), "no time has passed: there is no share of nothing"
    threads(main=1.2, pool=7.1, new=90.5)
    machine.now = 3.0
    assert sensors.read()["waiting"] == pytest.approx(0.5), "the new thread has a before by now"


class Driver:
    """A stand-in for the NVIDIA driver's library with two GPUs; the names and arguments are NVML's."""

    def __init__(self, answers=0):
        self.answers, self.asked = answers, []

    def nvmlInit_v2(self):  # noqa: N802
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index, handle):  # noqa: N802
        handle._obj.value = 100 + index.value
        return 0 if index.value < 2 else 6

    def nvmlDeviceGetHandleByUUID(self, name, handle):  # noqa: N802
        handle._obj.value = {b"GPU-b": 101}[name]
        return 0

    def nvmlDeviceGetTemperature(self, handle, kind, value):  # noqa: N802
        self.asked.append((handle.value, kind.value))
        value._obj.value = 55
        return self.answers

    def nvmlDeviceGetClockInfo(self, handle, kind, value):  # noqa: N802
        self.asked.append((handle.value, kind.value))
        value._obj.value = 1755
        return 0


@pytest.mark.parametrize(
    ("visible", "driver", "expected", "handle"),
    [
        (None, Driver(), {"gpu_celsius": 55.0, "gpu_mhz": 1755.0}, 100),
        ("1,0", Driver(), {"gpu_celsius": 55.0, "gpu_mhz": 1755.0}, 101),
        ("GPU-b", Driver(), {"gpu_celsius": 55.0, "gpu_mhz": 1755.0}, 101),
        ("0", Driver(answers=3), {"gpu_mhz": 1755.0}, 100),  # this card does not tell its temperature
        ("5", Driver(), {}, None),  # there is no such card
        (None, None, {}, None),  # there is no driver
    ],
)
def test_the_gpu_is_the_first_that_cuda_shows(monkeypatch, visible, driver, expected, handle):
    def load(_name):
        if driver is None:
            raise OSError("libnvidia-ml.so.1: cannot open shared object file")
        return driver

    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    reading = Sensors(gpu=True).read()
    assert {name: value for name, value in reading.items() if name.startswith("gpu")} == expected
    if driver is not None and handle is not None:
        assert driver.asked == [(handle, 0), (handle, 1)], "temperature of the chip, clock of the multiprocessors"


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="this kernel keeps no account of waiting")
def test_a_real_neighbour_on_our_cpu_is_seen():
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        sensors = Sensors()
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            pass
        reading = sensors.read()
    finally:
        neighbour.kill()
        neighbour.wait()
        os.sched_setaffinity(0, allowed)
    assert 0.2 < reading["waiting"] <= 1
    assert 0.2 < reading["others"] <= 1


def test_a_watch_without_sensors_reads_nothing_and_every_source_has_words():
    assert Watch().read() == {}
    check_names(dict(Watch.over_this_machine(gpu=True).read()))
    check_names(SOURCES)
    with pytest.raises(MadxError, match=r"\['phase_of_the_moon'\]"):
        check_names({"phase_of_the_moon": 1.0, "load": 0.0})
