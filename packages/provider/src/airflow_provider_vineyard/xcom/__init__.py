"""``VineyardXCom``, the XCom backend: ``[core] xcom_backend = airflow_provider_vineyard.xcom.VineyardXCom``.

Airflow imports the backend in every process, from the middle of its own import, and does not start when that fails. So
this module imports nothing of Airflow: the class is made when somebody asks for it (PEP 562), and what may be missing
or wrong (core, vineyardd, configuration) shows in the hooks, in the log of a task.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    VineyardXCom: Any

__all__ = ["VineyardXCom"]


def __getattr__(name: str) -> Any:
    if name != "VineyardXCom":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from airflow_provider_vineyard import preload, version_compat
    from airflow_provider_vineyard.placement import listen
    from airflow_provider_vineyard.xcom.backend import build

    base = version_compat.base_xcom()
    # Importing the base class may have asked for our class, and so made it, a few frames further up.
    if name not in globals():
        globals()[name] = build(base)
        preload.arrange()
        listen.arrange()
    return globals()[name]
