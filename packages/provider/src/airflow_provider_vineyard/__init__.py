"""Airflow provider for the vineyard object store.

Airflow imports this package in every process, some of them before Airflow itself has finished importing, so nothing of
Airflow, of core or of the data libraries may be imported here.
"""

from __future__ import annotations

from airflow_provider_vineyard._version import __version__

__all__ = ["__version__"]
