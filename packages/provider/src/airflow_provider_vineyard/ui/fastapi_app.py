"""The routes on Airflow 3. Each but the page itself and its files asks Airflow who may see what, before anything else.

Nothing here waits in Airflow's own threads: they serve its API as well. Questions to the database and to stores are in
threads of their own, and a page waits for them without holding one of Airflow's.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Callable, Dict, Optional

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import AccessView, DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag, requires_access_view
from airflow.api_fastapi.logging.decorators import action_logging
from airflow.models.dag import DagModel
from fastapi import Depends, FastAPI, Header, HTTPException, Query, Request, Response

from airflow_provider_vineyard.rows import DatabaseUnavailable
from airflow_provider_vineyard.ui import views
from airflow_provider_vineyard.ui.pages import API_HEADERS, HEADERS, static
from airflow_provider_vineyard.ui.rows import Asked

__all__ = ["make_app"]

_VALUE = "/api/dags/{dag_id}/runs/{run_id:path}/tasks/{task_id}/value"

_pool = ThreadPoolExecutor(16, thread_name_prefix="vineyard-page")

_reads_xcoms = Depends(requires_access_dag("GET", DagAccessEntity.XCOM))
_deletes_xcoms = Depends(requires_access_dag("DELETE", DagAccessEntity.XCOM))
_reads_cluster = Depends(requires_access_view(AccessView.CLUSTER_ACTIVITY))


def _value_asked_for(
    dag_id: str, run_id: str, task_id: str, key: str, map_index: int = Query(-1, ge=-1, lt=1 << 31)
) -> Asked:
    return Asked(dag_id, run_id, task_id, map_index, key)


_one = Depends(_value_asked_for)


def _by_our_page(x_vineyard: str = Header("")) -> None:
    """Refuse what another site's form could send: it cannot set a header."""
    if x_vineyard != "1":
        raise HTTPException(403, "Send the header X-Vineyard: 1.")


def make_app() -> FastAPI:
    """Return the application; Airflow mounts it."""
    app = FastAPI(title="Vineyard", docs_url=None, redoc_url=None, openapi_url=None)

    @app.middleware("http")
    async def add_headers(request: Request, call_next: Callable[..., Any]) -> Any:
        response = await call_next(request)
        is_api = "/api/" in request.url.path
        for name, text in (API_HEADERS if is_api else HEADERS).items():
            response.headers[name] = text
        return response

    @app.get("/")
    async def index() -> Response:
        return _file("page.html")

    @app.get("/static/{name}")
    async def files(name: str) -> Response:
        return _file(name)

    @app.get("/api/values", dependencies=[_reads_xcoms])
    async def values(
        user: GetUserDep,
        dag_id: Optional[str] = None,
        run_id: Optional[str] = None,
        task_id: Optional[str] = None,
        map_index: Optional[int] = Query(None, ge=-1, lt=1 << 31),
        after: Optional[str] = Query(None, max_length=8000),
        limit: int = 50,
    ) -> Response:
        asked = Asked(dag_id or None, run_id or None, task_id or None, map_index, None, after, limit)
        return await _answer(user, partial(views.values, asked))

    @app.get(_VALUE, dependencies=[_reads_xcoms])
    async def value(user: GetUserDep, asked: Asked = _one) -> Response:
        return await _answer(user, partial(views.value, asked))

    @app.delete(
        _VALUE, dependencies=[_deletes_xcoms, Depends(_by_our_page), Depends(action_logging("vineyard.delete_value"))]
    )
    async def delete(user: GetUserDep, asked: Asked = _one) -> Response:
        return await _answer(user, partial(views.delete, asked))

    @app.get("/api/stores", dependencies=[_reads_cluster])
    async def stores(user: GetUserDep) -> Response:
        return await _answer(user, views.stores)

    @app.get("/api/sums", dependencies=[_reads_xcoms])
    async def sums(user: GetUserDep) -> Response:
        return await _answer(user, views.fill)

    return app


async def _answer(user: Any, view: Callable[[views.Reader], Dict[str, Any]]) -> Response:
    """Return what a view answers to a user, made in a thread of ours."""
    from fastapi.responses import JSONResponse

    def answered() -> JSONResponse:
        try:
            return JSONResponse(view(_reader(user)))
        except views.Refused as error:
            return JSONResponse({"detail": error.reason}, error.status)
        except DatabaseUnavailable as error:
            return JSONResponse({"detail": str(error)}, 503)

    return await asyncio.get_running_loop().run_in_executor(_pool, answered)


def _reader(user: Any) -> views.Reader:
    manager = get_auth_manager()

    def may_delete(dag_id: str) -> bool:
        team = {"team_name": DagModel.get_team_name(dag_id)} if hasattr(DagModel, "get_team_name") else {}
        return bool(
            manager.is_authorized_dag(
                method="DELETE", access_entity=DagAccessEntity.XCOM, details=DagDetails(id=dag_id, **team), user=user
            )
        )

    return views.Reader(frozenset(manager.get_authorized_dag_ids(user=user, method="GET")), may_delete)


def _file(name: str) -> Response:
    found = static(name)
    return Response(status_code=404) if found is None else Response(found[0], media_type=found[1])
