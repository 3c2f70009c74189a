"""Files that say, or become, more than there is memory for: refused in one sentence, before the memory is gone.

What a test here could fill is bounded: the memory that is said to be free is small, or the file cannot be true.
"""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from madx.data import places
from madx.data.formats import open_arrays
from madx.data.pickles import load_arrays
from madx.data.rows import Rows
from madx.errors import DataError
from madx.machine import available_memory

FREE = 2**20
"""Bytes that are free here."""


@pytest.fixture
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "available_memory", lambda: FREE)


def npy_header(shape: tuple[int, ...], dtype: str = "|u1") -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"shape": shape, "fortran_order": False, "descr": dtype})
    return buffer.getvalue()


def archive(content: bytes, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        file.writestr("x_train.npy", content)
    return buffer.getvalue()


def idx_header(*shape: int) -> bytes:
    return bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)


MANY = 4 * FREE


@pytest.mark.usefixtures("small_machine")
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.npz", archive(npy_header((MANY,)) + bytes(MANY))),
        ("a-idx1-ubyte.gz", gzip.compress(idx_header(MANY) + bytes(MANY))),
        ("a-idx4-ubyte.gz", gzip.compress(idx_header(2**31, 2**31, 2**31, 2**31))),
        ("a.pkl", pickle.dumps(bytes(MANY))),
    ],
    ids=["npz", "idx", "idx that claims", "pickle"],
)
def test_what_is_more_than_the_memory_is_refused_before_it_is_there(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=r"says that it holds .* GB, and 0\.0 GB of memory are free"):  # noqa: PT012
        for load in open_arrays("arrays", tmp_path / name).arrays.values():
            load()


@pytest.mark.usefixtures("small_machine")
def test_what_stays_in_its_file_may_be_larger_than_the_memory(tmp_path):
    (tmp_path / "a.npz").write_bytes(archive(npy_header((MANY,)) + bytes(MANY), zipfile.ZIP_STORED))
    (tmp_path / "b-idx1-ubyte").write_bytes(idx_header(MANY) + bytes(MANY))
    for name in ("a.npz", "b-idx1-ubyte"):
        for load in open_arrays("arrays", tmp_path / name).arrays.values():
            assert isinstance(load(), Rows)


@pytest.mark.usefixtures("small_machine")
def test_tensors_and_matrices_are_held_against_the_memory(tmp_path):
    import torch
    from scipy.io import savemat

    torch.save({"x": torch.zeros(MANY, dtype=torch.uint8)}, tmp_path / "a.pt")
    savemat(tmp_path / "a.mat", {"x": np.zeros((MANY, 1), np.uint8)}, do_compression=True)
    assert (tmp_path / "a.mat").stat().st_size < FREE
    for name in ("a.pt", "a.mat"):
        with pytest.raises(DataError, match="GB of memory are free"):
            open_arrays("arrays", tmp_path / name)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_a_member_that_claims_more_than_it_has_is_damaged(tmp_path, method):
    (tmp_path / "a.npz").write_bytes(archive(npy_header((2**50,)) + bytes(100), method))
    with pytest.raises(DataError, match=r"x_train\.npy says \[1125899906842624\] of uint8, and holds 100 bytes"):
        open_arrays("arrays", tmp_path / "a.npz").arrays["x_train"]()


def test_no_more_of_a_packed_file_is_unpacked_than_it_says(tmp_path):
    """A header of ten bytes before millions: what is read ends with the eleventh."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    block = bytes(2**24)
    parts = [packer.compress(idx_header(10)), *(packer.compress(block) for _ in range(2)), packer.flush()]
    (tmp_path / "a-idx1-ubyte.gz").write_bytes(b"".join(parts))
    with pytest.raises(DataError, match=r"promises \[10\] entries, but more than 10 follow"):
        open_arrays("arrays", tmp_path / "a-idx1-ubyte.gz").arrays["a-idx1-ubyte"]()


def test_twins_are_not_unpacked_beyond_where_they_differ(tmp_path):
    """The packed one goes on behind the end of the other, and is damaged there: nobody comes that far."""
    plain = idx_header(4) + bytes(4)
    (tmp_path / "a-idx1-ubyte").write_bytes(plain)
    packed = gzip.compress(plain + bytes(2**22))
    (tmp_path / "a-idx1-ubyte.gz").write_bytes(packed[:-9])
    with pytest.raises(DataError, match="which differ"):
        open_arrays("idx", tmp_path)


BIG = 2**20
REPEATED = {
    "bytes": b"c_codecs\nencode\n",
    "list": b"cbuiltins\nlist\n",
    "tuple": b"cbuiltins\ntuple\n",
}


@pytest.mark.parametrize("made", list(REPEATED))
def test_a_pickle_that_copies_itself_without_end_is_refused(tmp_path, made):
    """Six bytes make another copy of a million."""
    if made == "bytes":
        once = b"X" + struct.pack("<I", BIG) + b"a" * BIG + b"q\0" + b"X\x06\0\0\0latin1q\2"
        again = b"h\1h\0h\2\x86R0"
    else:
        once = b"](" + b"N" * BIG + b"eq\0"
        again = b"h\1h\0\x85R0"
    head = b"\x80\2" + REPEATED[made] + b"q\1" + once
    (tmp_path / "a.pkl").write_bytes(head + again * 20_000 + b".")
    with pytest.raises(DataError, match="more of its content than there is, without end"):
        load_arrays(tmp_path / "a.pkl")


def test_bytes_of_a_pickle_have_to_be_there(tmp_path):
    (tmp_path / "a.pkl").write_bytes(b"\x80\5\x96" + struct.pack("<Q", 2**40) + b"abc.")
    with pytest.raises(DataError, match="not a whole pickle"):
        load_arrays(tmp_path / "a.pkl")
    value = {"x": bytearray(b"abc"), "y": [1, 2]}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(value, protocol=5))
    assert load_arrays(tmp_path / "a.pkl") == value


def test_a_container_has_what_its_group_has_left(tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 900 kB\nMemAvailable:   600 kB\nSwapFree:  100 kB\n")
    assert available_memory(meminfo, tmp_path / "none") == 700 * 1024
    group = tmp_path / "group"
    group.mkdir()
    for name, text in {"max": "max", "current": "5000", "stat": "anon 1\ninactive_file 1000\n"}.items():
        (group / f"memory.{name}").write_text(f"{text}\n")
    assert available_memory(meminfo, group) == 700 * 1024
    (group / "memory.max").write_text("9000\n")
    assert available_memory(meminfo, group) == 5000
    (group / "memory.stat").write_text("anon 1\ninactive_file 1000\nactive_file 200\nslab_reclaimable 30\nshmem 9\n")
    assert available_memory(meminfo, group) == 5230
    meminfo.write_text("MemTotal: 900 kB\nSwapFree:  100 kB\n")  # an old kernel, or one that is not Linux's
    assert available_memory(meminfo, group) is None
    assert available_memory(tmp_path / "nowhere") is None


def test_the_kernel_tells_here(monkeypatch):
    found = available_memory()
    assert found is None or found > 2**20
    monkeypatch.setattr(places, "available_memory", lambda: None)
    places.require_memory(Path("x"), 2**60)
