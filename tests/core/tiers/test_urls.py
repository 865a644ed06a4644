"""URLs of tiers: what opens which, and what is wrong with those that open nothing."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from typing import Any, Dict

import pytest

import vineyard_client as vc
from vineyard_client._tiers.folder import FolderTier
from vineyard_client._tiers.urls import ENTRY_POINTS, folder_path, open_tier


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("/srv/values", "/srv/values"),
        ("/srv/values/", "/srv/values"),
        ("~/values", str(Path("~/values").expanduser())),
        ("file:///srv/my%20values", "/srv/my values"),
        ("FILE://localhost/srv", "/srv"),
        ("s3://bucket/prefix", None),
        ("gs://bucket", None),
        ("az://container", None),
        ("own://anything", None),
    ],
)
def test_kinds(url: str, path: str) -> None:
    """A path or a file URL is a folder; anything else with a scheme is for the agent."""
    assert folder_path(url) == path


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("", "is no tier"),
        ("  ", "is no tier"),
        ("values", "neither an absolute path nor a URL"),
        ("s3:bucket", "neither an absolute path nor a URL"),
        ("file://host/srv", "names no folder of this host"),
        ("file://", "names no folder of this host"),
        ("s3://", "names no bucket. Write s3://bucket/prefix"),
        ("s3:///prefix", "names no bucket"),
        ("s3://key:secret@bucket/prefix", "has a password"),
        ("s3://bucket/?region=x", "has a password, a ? or a #"),
        ("s3://[bucket", "is no URL"),
    ],
)
def test_wrong(url: str, what: str) -> None:
    """A URL that is none says so, and what would be one; never with the password that stands in it."""
    with pytest.raises(vc.TierRefused) as caught:
        folder_path(url)
    assert what in str(caught.value)
    assert "secret" not in str(caught.value)


def test_unknown_scheme() -> None:
    """A scheme that nobody offers is an error that names the group of entry points."""
    with pytest.raises(vc.TierRefused, match=ENTRY_POINTS):
        open_tier("gopher://host/values")


def test_without_obstore(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where obstore is missing, the error says how to install it."""
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(vc.TierRefused, match=r"pip install 'vineyard-client\[buckets\]'"):
        open_tier("s3://bucket/prefix")


def test_third_party(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A package that is installed offers a scheme of its own."""
    package = tmp_path / "site" / "own_tier-1.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: own-tier\nVersion: 1\n")
    (package / "entry_points.txt").write_text(f"[{ENTRY_POINTS}]\nown = own_tier_for_test:open_it\n")
    (tmp_path / "site" / "own_tier_for_test.py").write_text(
        "from vineyard_client._tiers.folder import FolderTier\n"
        "def open_it(url, *, timeout, options):\n"
        "    assert timeout == 7 and options == {'a': 'b'}\n"
        "    return FolderTier(url.replace('own://', ''))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert any(point.name == "own" for point in _entry_points())
    tier = open_tier(f"own://{tmp_path}/values", timeout=7, options={"a": "b"})
    assert isinstance(tier, FolderTier)
    tier.check()


def _entry_points() -> Any:
    found = metadata.entry_points()
    groups: Dict[str, Any] = found  # type: ignore[assignment]
    return found.select(group=ENTRY_POINTS) if hasattr(found, "select") else groups[ENTRY_POINTS]
