"""Whose the files are that are made in a folder that a group shares, and in one that is somebody's own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Iterator, List

import pytest

from vineyard_client._tiers.folder import FolderTier, write_file
from vineyard_client._tiers.keys import make_key
from vineyard_client._tiers.notes import DELETED, LOADED, UNSAVED, Note, Notes

pytestmark = pytest.mark.skipif(os.name != "posix", reason="there are no groups")

# A group that is not the one of files that this user makes, if it is in another one.
GROUP = 12345 if os.geteuid() == 0 else os.getgroups()[-1]


@pytest.fixture(autouse=True, params=[0o077, 0o022, 0o000], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    """What the maker's files would be for others, if nothing were said."""
    before = os.umask(request.param)
    yield
    os.umask(before)


def fill(folder: Path) -> List[Path]:
    """Make everything that is ever made in a folder of notes, and in a tier below it; return what there is then."""
    notes = Notes(str(folder))
    token = os.urandom(16).hex()
    key = make_key(["dag", "run"], token)
    notes.open_journal()
    notes.write(LOADED, Note(token, 0, key, 1, "", 0.0), token)
    notes.jot(Note(token, 1, key, 1, "", 0.0))
    assert notes.names(UNSAVED)
    notes.to_delete(key)
    assert notes.names(DELETED)
    write_file(notes.overflow(token), [b"x"])
    with notes.lock(0.0) as mine:
        assert mine
    tier = folder / "tier"
    tier.mkdir()
    os.chown(tier, -1, folder.stat().st_gid)
    tier.chmod(folder.stat().st_mode & 0o7777)
    FolderTier(str(tier)).save(key, [b"x"])
    return [path for path in folder.rglob("*") if path != tier]


@pytest.mark.parametrize("mode", [0o770, 0o775])
def test_a_folder_in_which_a_group_may_write(mode: int, tmp_path: Path) -> None:
    """Everything is the group's, and it may do what it may in the folder, whatever umask and own group are."""
    tmp_path.chmod(mode)
    os.chown(tmp_path, -1, GROUP)
    found = fill(tmp_path)
    assert {path.stat().st_gid for path in found} == {GROUP}
    assert {path.stat().st_mode & 0o777 for path in found if path.is_dir()} == {mode}
    assert {path.stat().st_mode & 0o777 for path in found if path.is_file()} == {0o660}


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o750])
def test_a_folder_in_which_it_may_not(mode: int, tmp_path: Path) -> None:
    """Everything is its maker's alone."""
    tmp_path.chmod(mode)
    for path in fill(tmp_path):
        assert not path.stat().st_mode & 0o077
