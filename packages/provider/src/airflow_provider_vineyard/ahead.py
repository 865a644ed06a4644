"""Imports what ``[vineyard] preload`` names when it is imported itself: a fork server of CPython's takes modules alone.

``preload`` says why, and tells the fork server of it.
"""

from __future__ import annotations

from airflow_provider_vineyard import preload

preload.load_named()
