"""OpenTelemetry's instrumentation of FastAPI, which wraps the application and its ``send``."""

from typing import Annotated

import pytest
from fastapi import Depends

from fastapi_async_sessions import Session

from ..apps import Data, browser, make_app, make_provider, set_cookie_kind

pytest.importorskip("opentelemetry.instrumentation.fastapi")

from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter


async def test_an_instrumented_application_has_sessions() -> None:
    """Its spans are there, and carry neither the cookie nor the token."""
    get_session = make_provider()
    app = make_app()

    @app.get("/")
    async def home(session: Annotated[Session[Data], Depends(get_session)]) -> int:
        session.data.count += 1
        return session.data.count

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    FastAPIInstrumentor.instrument_app(app, tracer_provider=provider)
    async with browser(app) as client:
        first = await client.get("/")
        assert (first.json(), set_cookie_kind(first)) == (1, "sent")
        assert (await client.get("/")).json() == 2
        token = client.cookies["__Host-session"]
    spans = exporter.get_finished_spans()
    assert any(span.name == "GET /" for span in spans)
    assert token not in "".join(span.to_json() for span in spans)
