"""Telemetry: a span and a measurement for each store call, and counters."""

import asyncio
from collections import Counter
from dataclasses import dataclass
from time import perf_counter
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode, get_current_span

from examples import metrics
from fastapi_async_sessions import ConfigurationError, MemoryStore, Session, StoreUnavailable
from fastapi_async_sessions.stores.redis import RedisStore
from fastapi_async_sessions.telemetry import instrument

from .apps import Data, browser, make_app, make_provider
from .doubles import Gate, SpyStore, before, failing, pass_on

PREFIX = "fastapi_async_sessions."


class Exported:
    """Providers of an SDK, and what it has exported."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.reader = InMemoryMetricReader()
        self.tracer_provider = TracerProvider(shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.meter_provider = MeterProvider([self.reader], shutdown_on_exit=False)

    @property
    def providers(self) -> dict[str, Any]:
        return {"tracer_provider": self.tracer_provider, "meter_provider": self.meter_provider}

    def spans(self) -> list[Any]:
        """Those that have ended since the last time."""
        ended = list(self.exporter.get_finished_spans())
        self.exporter.clear()
        return ended

    def points(self, name: str) -> list[tuple[dict[str, Any], Any]]:
        """The attributes and the value of each data point of a metric."""
        data = self.reader.get_metrics_data()
        metrics = data.resource_metrics[0].scope_metrics[0].metrics if data else []
        return [
            (short(point.attributes), getattr(point, "value", None) or getattr(point, "count", 0))
            for metric in metrics
            if metric.name == PREFIX + name
            for point in metric.data.data_points
        ]


def short(attributes: Any) -> dict[str, Any]:
    """Attributes without the prefix, which all have."""
    return {name.removeprefix(PREFIX): value for name, value in attributes.items()}


@dataclass
class Site:
    """An application with an instrumented provider."""

    app: FastAPI
    store: SpyStore
    exported: Exported
    get_session: Any

    async def calls(self, method: str, path: str, client: httpx.AsyncClient) -> list[Any]:
        """Send a request; gives verb and outcome of each span, after a check of the counts."""
        self.exported.spans()
        self.store.calls.clear()
        measured = dict(self.measurements())
        await client.request(method, path)
        spans = [short(span.attributes) for span in self.exported.spans()]
        found = [(span["verb"], span["outcome"]) for span in spans]
        assert [verb for verb, _ in found] == self.store.calls
        assert self.measurements() - Counter(measured) == Counter(found)
        return found

    def measurements(self) -> Counter[tuple[str, str]]:
        points = self.exported.points("store.call.duration")
        return Counter({(point["verb"], point["outcome"]): n for point, n in points})


def make_site(store: Any, **options: Any) -> Site:
    spy, exported = SpyStore(store), Exported()
    get_session = make_provider(spy, name="web", **options)
    instrument(get_session, **exported.providers)
    app = make_app()
    own_session = Annotated[Session[Data], Depends(get_session)]

    @app.get("/")
    async def read(session: own_session) -> int:
        return session.data.count

    @app.post("/change")
    async def change(session: own_session) -> None:
        session.data.count += 1

    @app.post("/sign-in")
    async def sign_in(session: own_session) -> None:
        session.renew(subject="ada-the-subject")

    @app.post("/destroy")
    async def destroy(session: own_session) -> None:
        await session.destroy()

    return Site(app, spy, exported, get_session)


@pytest.fixture
def site() -> Site:
    return make_site(MemoryStore())


async def test_each_store_call_is_one_span_and_one_measurement(site: Site) -> None:
    """Whatever a request does, there are as many of each as the store has received calls."""
    client = browser(site.app)
    assert await site.calls("GET", "/", client) == []
    assert await site.calls("POST", "/change", client) == [("create", "ok")]
    assert await site.calls("GET", "/", client) == [("load", "ok")]
    assert await site.calls("POST", "/change", client) == [("load", "ok"), ("save", "ok")]
    for path in ("/sign-in", "/destroy"):
        assert len(await site.calls("POST", path, client)) >= 3


async def test_a_call_has_all_its_arguments(site: Site) -> None:
    """The limit of a list, and the session that a revocation keeps."""
    for _ in range(2):
        await browser(site.app).post("/sign-in")
    records = {key: each for key, each in (await site.store.records()).items() if each.owner}
    key, owner = next((key, each.owner) for key, each in records.items())
    store = site.get_session.repository.store
    assert len(await store.find(owner, 1)) == 1
    assert await store.delete_owned(owner, keep=key) == 1
    assert await store.load(key) is not None


async def test_a_measurement_is_the_time_of_the_call(site: Site) -> None:
    """In seconds; the calls of a request take less than the request."""
    began = perf_counter()
    await browser(site.app).post("/change")
    elapsed = perf_counter() - began
    data = site.exported.reader.get_metrics_data().resource_metrics[0].scope_metrics[0]
    (points,) = [each.data.data_points for each in data.metrics if each.unit == "s"]
    assert 0 < sum(point.sum for point in points) <= elapsed


async def test_a_call_of_an_administrator_is_measured_too(site: Site) -> None:
    """The verbs are those of the store."""
    await site.get_session.revoke_all("ada")
    assert "delete_owned" in {short(span.attributes)["verb"] for span in site.exported.spans()}


async def test_an_outcome_tells_what_the_store_answered(site: Site) -> None:
    """A record that is missing, a write that came too late, a store that is down."""
    client = browser(site.app)
    await client.post("/change")
    (key,) = await site.store.records()

    async def overtake() -> None:
        async with site.get_session.open(key) as session:
            session.data.count += 5

    site.store.hook = before("save", overtake)
    await client.post("/change")
    site.store.hook = pass_on
    attributes = [short(span.attributes) for span in site.exported.spans()]
    assert ("save", "refused") in [(each["verb"], each["outcome"]) for each in attributes]
    await site.store.inner.clear()
    assert await site.calls("GET", "/", client) == [("load", "missing")]
    assert await site.get_session.repository.store.delete(key) is False
    (span,) = site.exported.spans()
    assert short(span.attributes)["outcome"] == "missing"
    site.store.hook = failing("load", error=OSError("hunter2"))
    await client.get("/")
    (span,) = site.exported.spans()[-1:]
    assert short(span.attributes)["outcome"] == "unavailable"
    assert span.status.status_code is StatusCode.ERROR
    assert span.events == ()  # no exception, whose frames may hold records


async def test_a_cancelled_call_ends_its_span(site: Site) -> None:
    """A client that has gone away is not a failure of the store."""
    await browser(site.app).post("/change")
    site.exported.spans()
    site.store.hook = gate = Gate("load")
    task = asyncio.create_task(site.get_session.repository.store.load("0" * 64))
    await gate.reached.wait()
    task.cancel()
    await asyncio.wait([task])
    (span,) = site.exported.spans()
    assert short(span.attributes)["outcome"] == "cancelled"
    assert span.status.status_code is StatusCode.UNSET


async def test_a_mistake_in_the_program_is_an_error(site: Site) -> None:
    """It is neither an answer of the store nor an outage."""
    site.store.hook = failing("find", error=ConfigurationError("no find"))
    with pytest.raises(ConfigurationError):
        await site.get_session.sessions("ada")
    (span,) = site.exported.spans()
    assert short(span.attributes)["outcome"] == "error"
    assert span.status.status_code is StatusCode.ERROR


async def test_the_spans_of_a_driver_are_inside(site: Site) -> None:
    """During the call its span is the current one."""
    seen = []

    async def hook(call: Any) -> Any:
        seen.append(get_current_span().get_span_context().span_id)
        return await call.pass_on()

    site.store.hook = hook
    await browser(site.app).post("/change")
    assert seen == [span.context.span_id for span in site.exported.spans()]


async def test_events_are_counted_by_kind(site: Site) -> None:
    """The application's own hook is called as well."""
    events: list[Any] = []
    site = make_site(MemoryStore(), on_event=events.append)
    client = browser(site.app)
    await client.post("/change")
    await client.get("/", headers={"cookie": "__Host-web=forged"})
    counted = {point["kind"]: count for point, count in site.exported.points("events")}
    assert counted == dict(Counter(event.kind for event in events))
    assert {"created", "bad_signature"} <= set(counted)


async def test_bytes_are_those_of_the_records(site: Site) -> None:
    """Written by a create or a save, read by a load or a find."""
    client = browser(site.app)
    await client.post("/sign-in")
    (record,) = [each for each in (await site.store.records()).values() if each.owner]
    before = dict(_by_direction(site))
    await client.get("/")
    await site.get_session.sessions("ada-the-subject")
    after = _by_direction(site)
    assert after["read"] - before["read"] == 2 * len(record.body)
    assert after["written"] == before["written"] >= len(record.body)
    await client.post("/change")
    (record,) = [each for each in (await site.store.records()).values() if each.owner]
    assert _by_direction(site)["written"] - after["written"] == len(record.body)


def _by_direction(site: Site) -> dict[str, int]:
    return {point["direction"]: count for point, count in site.exported.points("store.bytes")}


async def test_batches_of_redis_are_counted_with_their_calls(redis_url: str) -> None:
    """Reads that overlap travel together."""
    store, exported = RedisStore.from_url(redis_url), Exported()
    instrument(make_provider(store), **exported.providers)
    await store.load("0" * 64)
    assert exported.points("store.batches") == [({"store": "RedisStore"}, 0)]
    await asyncio.gather(*(store.load(f"{number:064x}") for number in range(10)))
    ((_, batches),) = exported.points("store.batches")
    ((_, calls),) = exported.points("store.batched_calls")
    assert (batches, calls) == (1, 9)
    await store.aclose()


async def test_nothing_secret_is_in_a_span_or_a_metric(site: Site) -> None:
    """Neither token, cookie and key, nor subject and data."""
    client = browser(site.app)
    await client.post("/sign-in")
    await client.post("/change")
    cookie = client.cookies["__Host-web"]
    site.store.hook = failing("load", error=OSError("hunter2"))
    await client.get("/")
    spans = [span.to_json() for span in site.exported.spans()]
    exported = "".join(spans) + site.exported.reader.get_metrics_data().to_json()
    keys = [*await site.store.records()]
    for secret in (cookie, cookie.partition(".")[0], "ada-the-subject", "hunter2", *keys):
        assert secret not in exported


async def test_names_begin_with_that_of_the_package(site: Site) -> None:
    """So do those of all attributes."""
    await browser(site.app).post("/sign-in")
    for span in site.exported.spans():
        assert span.name == PREFIX + "store.call"
        assert all(name.startswith(PREFIX) for name in span.attributes)
    scope = site.exported.reader.get_metrics_data().resource_metrics[0].scope_metrics[0]
    names = {metric.name.removeprefix(PREFIX) for metric in scope.metrics}
    batches = {"store.batches", "store.batched_calls"}
    assert names == {"store.call.duration", "store.bytes", "events", *batches}
    points = [point for metric in scope.metrics for point in metric.data.data_points]
    assert all(name.startswith(PREFIX) for point in points for name in point.attributes)


async def test_without_an_sdk_everything_works() -> None:
    """Nothing is recorded."""
    store = SpyStore(MemoryStore())
    get_session = make_provider(store)
    instrument(get_session)
    await get_session.check()
    assert {"create", "delete"} <= set(store.calls)
    store.hook = failing("create", error=OSError())
    with pytest.raises(StoreUnavailable):
        await get_session.check()


def test_a_provider_is_instrumented_once(site: Site) -> None:
    """Twice would count everything twice."""
    with pytest.raises(ConfigurationError, match="instrumented already"):
        instrument(site.get_session)


def test_only_a_provider_can_be_instrumented() -> None:
    """An application is something else."""
    with pytest.raises(ConfigurationError, match="takes a SessionProvider"):
        instrument(FastAPI())  # type: ignore[arg-type]


def test_the_example_exports_to_prometheus() -> None:
    """The names have underscores there, and counters end with ``_total``."""
    with TestClient(metrics.app, base_url="https://testserver") as client:
        assert [client.get("/").json() for _ in range(2)] == [1, 2]
        text = client.get("/metrics/").text
    for name in ("store_call_duration_seconds_count", "store_bytes_total", "events_total"):
        assert f"fastapi_async_sessions_{name}{{" in text, text
