"""Session metrics for Prometheus, at /metrics: ``uvicorn examples.metrics:app``.

Needs ``pip install "fastapi_async_sessions[telemetry]" opentelemetry-exporter-prometheus``.
"""

import secrets
from typing import Annotated

from fastapi import Depends, FastAPI
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import make_asgi_app
from pydantic import BaseModel

from fastapi_async_sessions import Additive, MemoryStore, Session, SessionProvider, SessionRoute
from fastapi_async_sessions.telemetry import instrument


class Visits(BaseModel):
    count: Annotated[int, Additive] = 0


get_session = SessionProvider(
    Visits, store=MemoryStore(), secret_key=secrets.token_urlsafe(32), name="metrics"
)
instrument(get_session, meter_provider=MeterProvider([PrometheusMetricReader()]))

app = FastAPI(lifespan=get_session.lifespan)
app.router.route_class = SessionRoute
app.mount("/metrics", make_asgi_app())


@app.get("/")
async def home(session: Annotated[Session[Visits], Depends(get_session)]) -> int:
    session.data.count += 1
    return session.data.count
