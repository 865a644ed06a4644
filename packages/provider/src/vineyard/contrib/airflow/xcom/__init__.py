"""The path under which vineyard's own provider had its XCom backend, kept for people's configurations.

The class is ``airflow_provider_vineyard.xcom.VineyardXCom``. It is asked for there only when somebody asks here,
because Airflow imports this module from the middle of its own import.
"""

from __future__ import annotations

from typing import Any

__all__ = ["VineyardXCom"]


def __getattr__(name: str) -> Any:
    if name != "VineyardXCom":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from airflow_provider_vineyard import xcom

    return xcom.VineyardXCom
