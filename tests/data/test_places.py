"""Where sets are looked for, in which order, and what is said when they are nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from madx.data import places
from madx.data.places import data_root, find_folder
from madx.errors import DataError
from madx.recipe import DataConfig


@pytest.fixture
def three_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The three candidates for Fashion-MNIST, none of which exists yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MADX_DATA", str(tmp_path / "mine"))
    system = tmp_path / "system"
    monkeypatch.setattr(places, "SYSTEM_FOLDERS", {"fashion-mnist": system})
    return [tmp_path / "mine" / "fashion-mnist", Path("datasets/fashion-mnist"), system]


@pytest.mark.parametrize("first", [0, 1, 2])
def test_the_first_existing_place_wins(three_places, first):
    for place in three_places[first:]:
        place.mkdir(parents=True)
    assert find_folder(DataConfig()) == three_places[first]


def test_nowhere_lists_every_place_and_the_command(three_places):
    with pytest.raises(DataError) as caught:
        find_folder(DataConfig())
    message = str(caught.value)
    assert all(str(place) in message for place in three_places)
    assert "madx data fetch fashion-mnist" in message


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("cifar10", "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"),
        ("cifar100", "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz"),
        ("svhn", "http://ufldl.stanford.edu/housenumbers/"),
    ],
)
def test_other_sets_name_their_official_page(three_places, name, address):  # noqa: ARG001
    with pytest.raises(DataError, match="not on this machine") as caught:
        find_folder(DataConfig(name=name))
    assert address in str(caught.value)


def test_a_given_path_is_not_searched_around(three_places, tmp_path):
    three_places[0].mkdir(parents=True)
    given = tmp_path / "given"
    with pytest.raises(DataError, match="given is not a folder"):
        find_folder(DataConfig(path=given))
    given.mkdir()
    assert find_folder(DataConfig(path=given)) == given


def test_root_of_data_sets(monkeypatch):
    monkeypatch.setenv("MADX_DATA", "/some/where")
    assert data_root() == Path("/some/where")
    monkeypatch.setenv("MADX_DATA", "")
    assert data_root() == Path("datasets")
    monkeypatch.delenv("MADX_DATA")
    assert data_root() == Path("datasets")
