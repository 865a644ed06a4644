"""Open a tier by its URL, and tell by the URL alone which kind it is: a task needs no library for that."""

from __future__ import annotations

import os
import re
from typing import Any, Mapping, Optional
from urllib.parse import unquote, urlsplit

from ..exceptions import TierRefused
from .contract import Tier
from .folder import FolderTier

__all__ = ["ENTRY_POINTS", "folder_path", "open_tier"]

# Where others offer tiers, each under the scheme of its URLs.
ENTRY_POINTS = "vineyard_client.tiers"

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_BUCKETS = {
    "s3": "s3://bucket/prefix",
    "s3a": "s3://bucket/prefix",
    "gs": "gs://bucket/prefix",
    "az": "az://container/prefix",
    "azure": "az://container/prefix",
    "abfs": "abfs://container/prefix",
    "abfss": "abfss://container@account.dfs.core.windows.net/prefix",
}
_KINDS = "an absolute path, file:///path, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix"


def folder_path(url: str) -> Optional[str]:
    """Return the folder that a URL names; None if it names no folder, but something that the agent opens.

    Raises:
        TierRefused: the URL is none.
    """
    if not isinstance(url, str) or not url.strip():
        raise TierRefused(f"{url!r} is no tier.", f"Write {_KINDS}.")
    match = _SCHEME.match(url)
    if not match:
        path = os.path.expanduser(url)
        if not os.path.isabs(path):
            raise TierRefused(f"The tier {url!r} is neither an absolute path nor a URL.", f"Write {_KINDS}.")
        return os.path.normpath(path)
    if match[1].lower() != "file":
        _check_bucket(url, match[1])
        return None
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or parts.query or parts.fragment or len(parts.path) < 2:
        raise TierRefused(f"The tier {url!r} names no folder of this host.", "Write file:///path, with three slashes.")
    return os.path.normpath(unquote(parts.path))


def _check_bucket(url: str, scheme: str) -> None:
    try:
        parts = urlsplit(url)
        known = scheme.lower() not in _BUCKETS or bool(parts.netloc)
    except ValueError as error:
        raise TierRefused(f"The tier {url!r} is no URL: {error}.", f"Write {_KINDS}.") from error
    if not known:
        raise TierRefused(f"The tier {url!r} names no bucket.", f"Write {_BUCKETS[scheme.lower()]}.")
    if parts.password is not None or parts.query or parts.fragment:
        raise TierRefused(
            f"The tier {scheme}://{parts.hostname or ''}… has a password, a ? or a # in it.",
            "Write the bucket and the prefix alone: credentials come from the environment, settings are options of "
            "the tier.",
        )


def open_tier(
    url: str,
    *,
    timeout: float = 120.0,
    options: Optional[Mapping[str, str]] = None,
    reserve: float = 0.0,
    sync: bool = False,
) -> Tier:
    """Return the tier behind a URL or a path.

    Args:
        url: an absolute path, ``file:///path``, ``s3://bucket/prefix``, ``gs://…``, ``az://…``, or a URL whose scheme
            an installed package offers.
        timeout: seconds that saving or loading may take, retries included; not for folders.
        options: settings of a bucket's store, such as its endpoint.
        reserve: for folders, the share of the file system that stays free.
        sync: for folders, whether what is saved survives a power cut.

    Raises:
        TierRefused: there is no tier of that kind, or the library for it is not installed.
    """
    folder = folder_path(url)
    if folder is not None:
        return FolderTier(folder, reserve=reserve, sync=sync)
    scheme = url.partition("://")[0].lower()
    if scheme in _BUCKETS:
        from .buckets import BucketTier

        return BucketTier(url.rstrip("/"), timeout=timeout, options=options)
    return _offered(scheme, url, timeout, options or {})


def _offered(scheme: str, url: str, timeout: float, options: Mapping[str, str]) -> Tier:
    from importlib import metadata

    found: Any = metadata.entry_points()
    # Until CPython 3.9 this is a dict of lists.
    points = found.select(group=ENTRY_POINTS) if hasattr(found, "select") else found.get(ENTRY_POINTS, [])
    for point in points:
        if point.name == scheme:
            tier: Tier = point.load()(url, timeout=timeout, options=options)
            return tier
    raise TierRefused(
        f"The tier {url} is of a kind that is not known here: {scheme}.",
        f"Write {_KINDS}, or install the package that offers it (entry point group {ENTRY_POINTS}).",
    )
