"""The routes on Airflow 2.8 to 2.11, and the page in Airflow's frame. Each data route asks Airflow who may see what.

A request waits in the thread that serves it, as all of Airflow 2 does; ``hosts`` says for how long at most. Changes
need Airflow's CSRF token, which Flask checks, and the header that no form of another site can send.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Callable, Dict, Optional

from airflow.auth.managers.models.resource_details import AccessView, DagAccessEntity, DagDetails
from airflow.www.auth import has_access_view
from airflow.www.decorators import action_logging
from airflow.www.extensions.init_auth_manager import get_auth_manager
from flask import Blueprint, Response, jsonify, request
from flask_appbuilder import BaseView, expose

from airflow_provider_vineyard.rows import DatabaseUnavailable
from airflow_provider_vineyard.ui import views
from airflow_provider_vineyard.ui.pages import API_HEADERS, HEADERS, PREFIX, static
from airflow_provider_vineyard.ui.rows import Asked

__all__ = ["make_blueprint", "make_view"]

_VALUE = "/api/dags/<dag_id>/runs/<path:run_id>/tasks/<task_id>/value"


def make_view() -> Any:
    """Return the page in Airflow's frame, for the menu."""

    class Vineyard(BaseView):  # type: ignore[misc]
        route_base = PREFIX
        default_view = "index"

        @expose("/")
        @has_access_view(AccessView.WEBSITE)
        def index(self) -> Any:
            return self.render_template("vineyard/page2.html")

    return Vineyard()


def make_blueprint() -> Blueprint:
    """Return the routes for files and data."""
    routes = Blueprint("vineyard_page", __name__, url_prefix=PREFIX, template_folder="templates")

    @routes.get("/static/<name>")
    def files(name: str) -> Response:
        found = static(name)
        return Response(status=404) if found is None else _with(HEADERS, Response(found[0], mimetype=found[1]))

    @routes.get("/api/values")
    def values() -> Response:
        arguments = request.args
        try:
            map_index = int(arguments["map_index"]) if arguments.get("map_index") else None
            limit = int(arguments.get("limit", Asked.limit))
        except ValueError:
            return _refused(400, "map_index and limit are numbers.")
        named = {name: arguments.get(name) or None for name in ("dag_id", "run_id", "task_id", "after")}
        asked = Asked(map_index=map_index, limit=limit, **named)
        return _answer(_may_xcom("GET", asked.dag_id), partial(views.values, asked))

    @routes.get(_VALUE)
    def value(dag_id: str, run_id: str, task_id: str) -> Response:
        return _of_one(dag_id, run_id, task_id, "GET", views.value)

    @routes.delete(_VALUE)
    def delete(dag_id: str, run_id: str, task_id: str) -> Response:
        if request.headers.get("X-Vineyard") != "1":
            return _refused(403, "Send the header X-Vineyard: 1.")

        @action_logging(event="vineyard.delete_value")
        def deleted() -> Response:
            return _of_one(dag_id, run_id, task_id, "DELETE", views.delete)

        denied = _denied(_may_xcom("DELETE", dag_id))
        answered: Response = deleted() if denied is None else denied
        return answered

    @routes.get("/api/stores")
    def stores() -> Response:
        def may() -> bool:
            return bool(get_auth_manager().is_authorized_view(access_view=AccessView.CLUSTER_ACTIVITY))

        return _answer(may, views.stores)

    @routes.get("/api/sums")
    def sums() -> Response:
        return _answer(_may_xcom("GET", None), views.fill)

    return routes


def _of_one(
    dag_id: str, run_id: str, task_id: str, method: str, view: Callable[[Asked, views.Reader], Dict[str, Any]]
) -> Response:
    try:
        map_index = int(request.args.get("map_index", -1))
    except ValueError:
        return _refused(400, "map_index is a number.")
    key = request.args.get("key")
    if not key:
        return _refused(400, "Say which key.")
    return _answer(_may_xcom(method, dag_id), partial(view, Asked(dag_id, run_id, task_id, map_index, key)))


def _may_xcom(method: Any, dag_id: Optional[str]) -> Callable[[], bool]:
    details = None if dag_id is None else DagDetails(id=dag_id)

    def may() -> bool:
        manager = get_auth_manager()
        return bool(manager.is_authorized_dag(method=method, access_entity=DagAccessEntity.XCOM, details=details))

    return may


def _denied(may: Callable[[], bool]) -> Optional[Response]:
    if not get_auth_manager().is_logged_in():
        return _refused(401, "You are not logged in.")
    return None if may() else _refused(403, "You may not see this.")


def _answer(may: Callable[[], bool], view: Callable[[views.Reader], Dict[str, Any]]) -> Response:
    """Return what a view answers, to somebody who may ask."""
    denied = _denied(may)
    if denied is not None:
        return denied
    dag_ids = frozenset(get_auth_manager().get_permitted_dag_ids(methods=["GET"]))
    try:
        return _with(API_HEADERS, jsonify(view(views.Reader(dag_ids, lambda dag_id: _may_xcom("DELETE", dag_id)()))))
    except views.Refused as error:
        return _refused(error.status, error.reason)
    except DatabaseUnavailable as error:
        return _refused(503, str(error))


def _refused(status: int, reason: str) -> Response:
    answer = _with(API_HEADERS, jsonify({"detail": reason}))
    answer.status_code = status
    return answer


def _with(headers: Dict[str, str], answer: Response) -> Response:
    answer.headers.update(headers)
    return answer
