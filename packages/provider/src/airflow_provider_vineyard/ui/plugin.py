"""Where Airflow begins: the entry point ``airflow.plugins``. Every process of Airflow imports it, each task as well.

So it imports nothing but the class that a plugin extends. What costs is in properties, which Airflow reads in the
processes that serve the web interface: importing the application for it takes seconds. A web server starts without our
page when that cannot be made, and its log says why.
"""

from __future__ import annotations

import logging
from functools import cached_property
from typing import Any, Callable, Dict, List

from airflow.plugins_manager import AirflowPlugin

__all__ = ["VineyardPlugin"]

log = logging.getLogger(__name__)


class VineyardPlugin(AirflowPlugin):
    """The page of stores and values, in what each release of Airflow has a place for."""

    name = "vineyard"

    @cached_property
    def fastapi_apps(self) -> List[Dict[str, Any]]:  # type: ignore[override]
        """The routes, on Airflow 3."""
        return _unless_off(_fastapi_apps)

    @cached_property
    def react_apps(self) -> List[Dict[str, Any]]:  # type: ignore[override]
        """The entry of the menu and the tabs, since Airflow 3.1."""
        return _unless_off(_react_apps)

    @cached_property
    def flask_blueprints(self) -> List[Any]:  # type: ignore[override]
        """The routes and static files, on Airflow 2.8 and later."""
        return _unless_off(_flask_blueprints)

    @cached_property
    def appbuilder_views(self) -> List[Dict[str, Any]]:  # type: ignore[override]
        """The page in Airflow's frame with its entry of the menu, on Airflow 2.8 and later."""
        return _unless_off(_appbuilder_views)

    @cached_property
    def global_operator_extra_links(self) -> List[Any]:  # type: ignore[override]
        """The link on each task instance that has values, on Airflow 2.8 and later."""
        return _unless_off(_links)


def _unless_off(make: Callable[[], List[Any]]) -> List[Any]:
    from airflow_provider_vineyard.settings import get_ui

    try:
        return make() if get_ui() else []
    except Exception:  # Airflow's web server would not start, or no DAG be shown
        log.exception("Vineyard's page is missing in Airflow's web interface; turn it off with [vineyard] ui = False")
        return []


def _fastapi_apps() -> List[Dict[str, Any]]:
    from airflow_provider_vineyard.version_compat import is_airflow_3

    if not is_airflow_3():
        return []
    from airflow_provider_vineyard.ui.fastapi_app import make_app
    from airflow_provider_vineyard.ui.pages import PREFIX

    return [{"app": make_app(), "url_prefix": PREFIX, "name": "Vineyard"}]


def _react_apps() -> List[Dict[str, Any]]:
    from airflow_provider_vineyard.ui.pages import react_apps
    from airflow_provider_vineyard.version_compat import airflow_version

    return react_apps() if airflow_version() >= (3, 1) else []


def _flask_blueprints() -> List[Any]:
    if not _has_flask():
        return []
    from airflow_provider_vineyard.ui.flask_app import make_blueprint

    return [make_blueprint()]


def _appbuilder_views() -> List[Dict[str, Any]]:
    if not _has_flask():
        return []
    from airflow_provider_vineyard.ui.flask_app import make_view

    return [{"name": "Vineyard", "category": "Browse", "view": make_view()}]


def _has_flask() -> bool:
    from airflow_provider_vineyard.version_compat import airflow_version

    return (2, 8) <= airflow_version() < (3, 0)


def _links() -> List[Any]:
    from airflow_provider_vineyard.version_compat import airflow_version

    if airflow_version() < (2, 8):
        return []
    from airflow_provider_vineyard.ui.link import make_link

    return [make_link()]
