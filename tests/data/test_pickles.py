"""Pickles and tensors that are forged: none of them runs code, reads foreign memory, or keeps madx at work for ever."""

from __future__ import annotations

import collections
import pickle

import numpy as np
import pytest
import torch

from madx.data.formats import open_arrays
from madx.data.pickles import load_arrays
from madx.errors import DataError


class Call:
    """Pickled as a call, with a state."""

    def __init__(self, function, args, *state):
        self.reduced = (function, args, *state)

    def __reduce__(self):
        return self.reduced


def written(tmp_path, content, protocol=2):
    path = tmp_path / "set.pkl"
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype=">i4").reshape(2, 3, 4),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array([True, False]),
        np.array(["a", "bcd"]),
        np.array([b"a", b"bcd"]),
        np.zeros((0, 3), np.float16),
        np.arange(12, dtype=np.uint8)[::3],
    ],
    ids=lambda array: array.dtype.str,
)
def test_plain_arrays_are_read_as_they_were(tmp_path, array, protocol):
    content = collections.OrderedDict(a=array, n=np.int64(3), b=b"\xff", e=b"")
    found = load_arrays(written(tmp_path, content, protocol))
    np.testing.assert_array_equal(found["a"].array, array)
    assert found["a"].array.dtype == array.dtype
    assert (found["n"], found["b"], found["e"]) == (3, b"\xff", b"")


FROM_BUFFER = np.arange(2).__reduce_ex__(5)[0]
RECONSTRUCT = np.arange(2).__reduce__()[0]
FORGED = {
    "objects": np.array([{}, None]),
    "a dtype of foreign flags": Call(np.dtype, ("u1", False, True), (3, "|", None, None, None, 2**20, 1, 63)),
    "records": Call(np.dtype, ("V8", False, True), (3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0)),
    "too few bytes": Call(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (10**6,), np.dtype("u1"), False, b"abc")),
    "no bytes": Call(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (2**40,), np.dtype("S"), False, b"")),
    "a negative shape": Call(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (-1, -3), np.dtype("u1"), False, b"abc")),
    "too short a buffer": Call(FROM_BUFFER, (b"abc", np.dtype("u1"), (9,), "C")),
    "many zeros": Call(bytes, (2**40,)),
    "another codec": Call(__import__("_codecs").encode, ("abc", "rot13")),
}


@pytest.mark.parametrize("name", [name for name in FORGED if name != "a dtype of foreign flags"])
def test_forged_arrays_are_refused(tmp_path, name):
    with pytest.raises(DataError, match=r"set\.pkl is not (a whole|read as a) pickle"):
        load_arrays(written(tmp_path, {"x": FORGED[name]}))


def test_the_state_of_functions_and_dtypes_is_not_taken(tmp_path):
    named = b"cnumpy.core.numeric\n_frombuffer\n"
    for state in (b"N}U\x0c__defaults__)s\x86b.", b"}U\x0c__defaults__)sb."):
        with pytest.raises(DataError, match="sets the state of a function"):
            load_arrays(written(tmp_path, named + state))
    forged = FORGED["a dtype of foreign flags"]
    array = Call(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (3,), forged, False, b"abc"))
    assert load_arrays(written(tmp_path, array)).array.tolist() == [97, 98, 99]
    assert np.dtype("u1").itemsize == 1


def test_containers_without_end_are_refused(tmp_path):
    inner: dict = {}
    for _ in range(60):
        inner = {"a": inner, "b": inner}
    with pytest.raises(DataError, match=r"the dict .* is (there in two places|nested deeper than 4 levels)"):
        open_arrays("pickles", written(tmp_path, inner))
    own: dict = {}
    own["a"] = own
    with pytest.raises(DataError, match="is there in two places"):
        open_arrays("pickles", written(tmp_path, own))
    with pytest.raises(DataError, match="more than 64 bits"):
        open_arrays("pickles", written(tmp_path, {"y": [2**70]})).arrays["y"]()


def test_tensors_that_are_larger_than_their_file_are_refused(tmp_path):
    path = tmp_path / "set.pt"
    torch.save({"x_train": torch.zeros(1).expand(2**40), "y": torch.zeros(2, 2).to_sparse()}, path)
    arrays = open_arrays("pt", path).arrays
    with pytest.raises(DataError, match=r"set\.pt: x_train has the shape \[1099511627776\].*contiguous"):
        arrays["x_train"]()
    with pytest.raises(DataError, match="save a dense one"):
        arrays["y"]()


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "holder", [lambda key: {key: 1}, lambda key: {key: 1, 2: 3}, lambda key: {key}, lambda key: frozenset([key])]
)
def test_keys_whose_hash_takes_for_ever_are_refused(tmp_path, holder, protocol):
    small, content = holder(()), b""
    assert load_arrays(written(tmp_path, holder("a"), protocol)) == holder("a")
    with pytest.raises(DataError, match="has a tuple for a key; expected text or numbers"):
        load_arrays(written(tmp_path, small, protocol))
    content = b"(" + b")q\0" + b"".join(b"h%c h%c\x86q%c".replace(b" ", b"") % (n, n, n + 1) for n in range(60))
    for end in (b"N}h\x3cNs.", b"(h\x3cNd."):
        with pytest.raises(DataError, match="has a tuple for a key"):
            load_arrays(written(tmp_path, b"\x80\2" + content + end))


def test_a_pickle_of_python_2_is_read(tmp_path):
    dtype = b"cnumpy\ndtype\n(U\x02u1K\0K\1tR(K\3U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\0tU\x01btR(K\1(K\3t" + dtype + b"\x89U\3abctb"
    found = load_arrays(written(tmp_path, b"\x80\2}(U\4data" + array + b"U\6labels](K\1K\2eu."))
    assert found[b"data"].array.tolist() == [97, 98, 99]
    assert found[b"labels"] == [1, 2]


@pytest.mark.parametrize("end", range(1, 60, 3))
def test_a_pickle_that_ends_anywhere_is_told(tmp_path, end):
    content = pickle.dumps({"x": np.arange(3), "y": [1, 2.5, 2**70, "é"]}, 4)
    with pytest.raises(DataError, match="is not a whole pickle"):
        load_arrays(written(tmp_path, content[:-end] or b"\x80"))
