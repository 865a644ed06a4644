"""Deployment assets for Airflow with vineyard as its XCom backend, and the command that shows and writes them."""

from __future__ import annotations

from ._version import __version__

__all__ = ["__version__"]
