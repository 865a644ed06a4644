"""The link on a task instance: to its values, where it has any.

Airflow imports this wherever it reads a plugin's links, so everything else is imported when somebody looks at a task
instance. It is the way for those who may not read *Plugins*, to whom Airflow shows neither menu entry nor tabs.
"""

from __future__ import annotations

import logging
from typing import Any

from airflow_provider_vineyard import version_compat

__all__ = ["make_link"]

log = logging.getLogger(__name__)


def make_link() -> Any:
    """Return the link; its class extends that of the Airflow that is installed."""
    base = version_compat.operator_link()

    class VineyardLink(base):  # type: ignore[misc, valid-type]
        name = "Vineyard"

        def get_link(self, operator: Any, *, ti_key: Any) -> str:
            """Return the address of a task instance's values; empty, which hides the link, if it has none."""
            return _address(ti_key)

    return VineyardLink()


def _address(ti_key: Any) -> str:
    from airflow_provider_vineyard.rows import DatabaseUnavailable
    from airflow_provider_vineyard.ui.pages import address
    from airflow_provider_vineyard.ui.views import link_wanted

    place = (ti_key.dag_id, ti_key.run_id, ti_key.task_id, ti_key.map_index)
    try:
        return address(*place) if link_wanted(*place) else ""
    except DatabaseUnavailable as error:
        log.warning("There is no link to the values of %s: %s", ti_key, error)
        return ""
