"""A session service: any store over HTTP, for ``HTTPStore`` and other clients.

    PUT     /sessions/{key}            If-None-Match: *        create        201, or 412: it exists
    PUT     /sessions/{key}            If-Match: "<version>"   save          204, or 412
    GET     /sessions/{key}                                    load          200 with ETag, or 404
    DELETE  /sessions/{key}                                    delete        204, or 404
    GET     /owners/{owner}/sessions   ?limit=100              find          200
    DELETE  /owners/{owner}/sessions   ?keep=<key>             delete_owned  200
    GET     /count                                             count         200
    DELETE  /sessions                                          clear         204
    POST    /purge                                             purge         200

An owner in a path is percent-encoded twice, with its dots, unless it is letters, digits, "-" and
"_" anyway.
"""

import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated, Any
from urllib.parse import unquote

from fastapi import (
    APIRouter,
    Depends,
    FastAPI,
    Header,
    HTTPException,
    Path,
    Query,
    Request,
    Response,
)
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import SecretStr, ValidationError

from ..errors import ConfigurationError, StoreUnavailable
from ._wire import (
    COUNT,
    KEY,
    RECORD,
    RECORDS,
    SERVICE_HEADER,
    UNAVAILABLE,
    Count,
    StoredRecord,
    Unavailable,
    checked_token,
    from_etag,
    to_etag,
)
from .base import Store

_Responses = dict[int | str, dict[str, Any]]
_REFUSALS: _Responses = {
    401: {"description": "The token is missing or wrong"},
    503: {"description": "The store failed", "model": Unavailable},
}

# A record has at most 1 MiB, which is 1.34 MiB as JSON.
_MAX_REQUEST = 3 * 2**19


def session_service(store: Store, *, token: str | SecretStr) -> FastAPI:
    """Make an ASGI application through which ``HTTPStore`` uses ``store``; serve it over TLS.

    Whoever has the token can read and change every session whose key they know. The application
    opens and closes the store. Expired sessions are removed when a client purges.

    Raises:
        ConfigurationError: this is not a store, or the token is not a text of at least 32 ASCII
            characters.
    """
    if not isinstance(store, Store):
        raise ConfigurationError("session_service(store, ...) takes a Store, such as MemoryStore()")
    app = FastAPI(
        title="Session service",
        dependencies=[Depends(_authorization(checked_token(token)))],
        responses=_REFUSALS,
        lifespan=_lifespan,
        exception_handlers={StoreUnavailable: _answer_unavailable},
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
    )
    app.state.store = store
    app.include_router(_router)
    return app


def _authorization(token: SecretStr) -> Any:
    """Make the dependency that refuses requests without the token."""
    expected = token.get_secret_value().encode()
    bearer = HTTPBearer(description="The token of the service.", auto_error=False)

    async def authorize(
        given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
    ) -> None:
        # Starlette decodes headers as Latin-1, so this restores the bytes that were sent
        credentials = given.credentials.encode("latin-1") if given else b""
        if not secrets.compare_digest(credentials, expected):
            raise HTTPException(401, headers={"WWW-Authenticate": "Bearer"})

    return authorize


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncGenerator[None]:
    store: Store = app.state.store
    await store.open()
    try:
        yield
    finally:
        await store.aclose()


_router = APIRouter()
_Key = Annotated[str, Path(pattern=KEY)]


def _get_store(request: Request) -> Store:
    store: Store = request.app.state.store
    return store


async def _get_session(request: Request, key: _Key) -> StoredRecord:
    """Read the session that a request writes, no further than a session can be long."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_REQUEST:
            raise HTTPException(413)
    try:
        session = RECORD.validate_json(bytes(body))
    except ValidationError:
        raise HTTPException(400, "the body is not a stored session") from None
    if session.key != key:
        raise HTTPException(400, "the key in the body is not the one in the path")
    return session


def _get_replaced_version(if_match: Annotated[str | None, Header()] = None) -> str | None:
    if if_match is None:
        return None
    try:
        return from_etag(if_match)
    except ValueError as error:
        raise HTTPException(400, str(error)) from None


_Store = Annotated[Store, Depends(_get_store)]
_Session = Annotated[StoredRecord, Depends(_get_session)]
_Replaces = Annotated[str | None, Depends(_get_replaced_version)]
_MISSING: _Responses = {404: {"description": "The session does not exist, or has expired"}}
_WRITTEN: _Responses = {
    201: {"description": "Created"},
    400: {"description": "The body is not this session, or If-Match is not a strong ETag"},
    412: {"description": "The session exists already, is gone, or has another version"},
    413: {"description": "No session is that large"},
    428: {"description": "Neither condition was sent"},
}
_SESSION_IN_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": StoredRecord.model_json_schema()}},
    }
}


@_router.get("/sessions/{key}", response_model=StoredRecord, responses=_MISSING)
async def _load(key: _Key, store: _Store) -> Response:
    record = await store.load(key)
    if record is None:
        return _answer(404)
    content = RECORD.dump_json(StoredRecord.of(key, record))
    return _answer(200, content, {"ETag": to_etag(record.version)})


@_router.put("/sessions/{key}", status_code=204, responses=_WRITTEN, openapi_extra=_SESSION_IN_BODY)
async def _write(
    session: _Session,
    store: _Store,
    replaces: _Replaces,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    key, record = session.key, session.to_record()
    if replaces is not None:
        return _answer(204 if await store.save(key, record, replaces=replaces) else 412)
    if if_none_match == "*":
        return _answer(201 if await store.create(key, record) else 412)
    raise HTTPException(428, 'send If-None-Match: * or If-Match: "<version>"')


@_router.delete("/sessions/{key}", status_code=204, responses=_MISSING)
async def _delete(key: _Key, store: _Store) -> Response:
    return _answer(204 if await store.delete(key) else 404)


@_router.delete("/sessions", status_code=204)
async def _clear(store: _Store) -> Response:
    await store.clear()
    return _answer(204)


@_router.get("/owners/{owner}/sessions", response_model=list[StoredRecord])
async def _find(owner: str, store: _Store, limit: Annotated[int, Query(ge=1)] = 100) -> Response:
    found = await store.find(unquote(owner), limit)
    return _answer(200, RECORDS.dump_json([StoredRecord.of(*each) for each in found]))


@_router.delete("/owners/{owner}/sessions", response_model=Count)
async def _delete_owned(
    owner: str, store: _Store, keep: Annotated[str | None, Query(pattern=KEY)] = None
) -> Response:
    return _answer_count(await store.delete_owned(unquote(owner), keep=keep))


@_router.get("/count", response_model=Count)
async def _count(store: _Store) -> Response:
    return _answer_count(await store.count())


@_router.post("/purge", response_model=Count)
async def _purge(store: _Store) -> Response:
    return _answer_count(await store.purge())


async def _answer_unavailable(_: Request, error: StoreUnavailable) -> Response:
    """Pass on why the store failed: it is looked for in the log of the application."""
    content = UNAVAILABLE.dump_json(Unavailable(reason=error.reason[:1000]))
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    return _answer(503, content, headers)


def _answer_count(count: int) -> Response:
    return _answer(200, COUNT.dump_json(Count(count=count)))


def _answer(status: int, content: bytes = b"", headers: dict[str, str] | None = None) -> Response:
    headers = {SERVICE_HEADER: "1", "Cache-Control": "no-store", **(headers or {})}
    return Response(content, status, headers, "application/json" if content else None)
