"""Deployment assets for Airflow with vineyard as its XCom backend; see the README for what is there so far."""

from __future__ import annotations

from ._version import __version__

__all__ = ["__version__"]
