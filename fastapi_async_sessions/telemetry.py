"""OpenTelemetry for a provider: a span and a measurement for each store call, and its events.

    instrument(get_session)

All names begin with ``fastapi_async_sessions.``:

    store.call            span       a call to the store, by provider, store, verb and outcome
    store.call.duration   histogram  the seconds that calls took, by the same
    store.bytes           counter    the bytes of records, by provider, store and direction
    store.batches         counter    the commands that carried several calls each, by store
    store.batched_calls   counter    the calls that they carried
    events                counter    the events, such as conflicts, by provider and kind

An outcome is ``ok``, ``missing`` (there is no such record), ``refused`` (another request has
written first), ``unavailable``, ``cancelled``, or ``error`` for a mistake in the program. No
attribute holds a key, a subject, a token or data.

The counters are read when they are exported: a request only adds to them. Without an SDK nothing is
recorded.
"""

from asyncio import CancelledError
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from time import perf_counter
from typing import Any, TypeVar

from ._web.provider import SessionProvider
from .errors import ConfigurationError, StoreUnavailable
from .events import SessionEvent
from .records import Record
from .stores.base import Store

try:
    from opentelemetry.metrics import (
        CallbackOptions,
        Histogram,
        Meter,
        MeterProvider,
        Observation,
        get_meter,
    )
    from opentelemetry.trace import StatusCode, Tracer, TracerProvider, get_tracer, use_span
except ImportError:
    raise ConfigurationError(
        'telemetry needs opentelemetry-api: pip install "fastapi_async_sessions[telemetry]"'
    ) from None

_NAME = "fastapi_async_sessions"
_SPAN = f"{_NAME}.store.call"
_Result = TypeVar("_Result")


def instrument(
    get_session: SessionProvider[Any],
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
) -> None:
    """Trace and measure what a provider does, from its next request on; call it once for each.

    Args:
        get_session: The provider.
        tracer_provider: By default the global one, even if that is set later.
        meter_provider: The same.

    Raises:
        ConfigurationError: this is not a provider, or it is instrumented already.
    """
    if not isinstance(get_session, SessionProvider):
        raise ConfigurationError("instrument(get_session) takes a SessionProvider")
    repository = get_session.repository
    if isinstance(repository.store, _MeasuredStore):
        raise ConfigurationError(f"{get_session!r} is instrumented already: call this once")
    settings = repository.settings
    tracer = get_tracer(_NAME, tracer_provider=tracer_provider)
    meter = get_meter(_NAME, meter_provider=meter_provider)
    kind = type(settings.store).__name__
    tallies = _Tallies(meter, settings.name, kind)
    repository.store = _MeasuredStore(
        repository.store,
        tracer,
        meter.create_histogram(f"{_NAME}.store.call.duration", "s", "The time of store calls."),
        {f"{_NAME}.provider": settings.name, f"{_NAME}.store": kind},
        tallies,
    )
    repository.events.listen(tallies.count_event)
    observe_batches: Callable[[Callable[[int], None]], None] | None
    observe_batches = getattr(settings.store, "observe_batches", None)
    if observe_batches is not None:
        observe_batches(tallies.count_batch)


class _Tallies:
    """Counters that are read when they are exported."""

    def __init__(self, meter: Meter, provider: str, store: str) -> None:
        self.read = self.written = self._batches = self._batched_calls = 0
        self._events: Counter[str] = Counter()
        self._provider = {f"{_NAME}.provider": provider}
        self._store = {f"{_NAME}.store": store}
        counters = {
            "events": ("", "Events of sessions.", self._observe_events),
            "store.bytes": ("By", "Bytes of records.", self._observe_bytes),
            "store.batches": ("", "Commands that carried several calls.", self._observe_batches),
            "store.batched_calls": ("", "Calls in batches.", self._observe_batched_calls),
        }
        for name, (unit, description, observe) in counters.items():
            meter.create_observable_counter(f"{_NAME}.{name}", [observe], unit, description)

    def count_event(self, event: SessionEvent) -> None:
        self._events[event.kind] += 1

    def count_batch(self, size: int) -> None:
        self._batches += 1
        self._batched_calls += size

    def _observe_events(self, _: CallbackOptions) -> Iterable[Observation]:
        for kind, count in self._events.items():
            yield Observation(count, {**self._provider, f"{_NAME}.kind": kind})

    def _observe_bytes(self, _: CallbackOptions) -> Iterable[Observation]:
        for direction, count in (("read", self.read), ("written", self.written)):
            attributes = {**self._provider, **self._store, f"{_NAME}.direction": direction}
            yield Observation(count, attributes)

    def _observe_batches(self, _: CallbackOptions) -> Iterable[Observation]:
        yield Observation(self._batches, self._store)

    def _observe_batched_calls(self, _: CallbackOptions) -> Iterable[Observation]:
        yield Observation(self._batched_calls, self._store)


class _MeasuredStore(Store):
    """Passes every call on, and measures it."""

    def __init__(
        self,
        store: Store,
        tracer: Tracer,
        duration: Histogram,
        attributes: dict[str, str],
        tallies: _Tallies,
    ) -> None:
        self._store = store
        self._tracer = tracer
        self._duration = duration
        self._attributes = attributes
        self._cached: dict[tuple[str, str], dict[str, str]] = {}
        self._tallies = tallies

    async def create(self, key: str, record: Record) -> bool:
        self._tallies.written += len(record.body)
        return await self._measured("create", self._store.create(key, record))

    async def load(self, key: str) -> Record | None:
        record = await self._measured("load", self._store.load(key))
        if record is not None:
            self._tallies.read += len(record.body)
        return record

    async def save(self, key: str, record: Record, *, replaces: str) -> bool:
        self._tallies.written += len(record.body)
        return await self._measured("save", self._store.save(key, record, replaces=replaces))

    async def delete(self, key: str) -> bool:
        return await self._measured("delete", self._store.delete(key))

    async def find(self, owner: str, limit: int = 100) -> list[tuple[str, Record]]:
        found = await self._measured("find", self._store.find(owner, limit))
        self._tallies.read += sum(len(record.body) for _, record in found)
        return found

    async def delete_owned(self, owner: str, *, keep: str | None = None) -> int:
        return await self._measured("delete_owned", self._store.delete_owned(owner, keep=keep))

    async def _measured(self, verb: str, call: Coroutine[Any, Any, _Result]) -> _Result:
        span = self._tracer.start_span(_SPAN)
        outcome, began = "error", perf_counter()
        try:
            if span.is_recording():
                # what the driver traces becomes a part of this span
                with use_span(span, record_exception=False, set_status_on_exception=False):
                    result = await call
            else:
                result = await call
            outcome = _outcome(verb, result)
            return result
        except StoreUnavailable:
            outcome = "unavailable"
            raise
        except CancelledError:
            outcome = "cancelled"
            raise
        finally:
            attributes = self._attributes_of(verb, outcome)
            self._duration.record(perf_counter() - began, attributes)
            if span.is_recording():
                span.set_attributes(attributes)
                if outcome in ("unavailable", "error"):
                    span.set_status(StatusCode.ERROR)
            span.end()

    def _attributes_of(self, verb: str, outcome: str) -> dict[str, str]:
        found = self._cached.get((verb, outcome))
        if found is None:
            own = {f"{_NAME}.verb": verb, f"{_NAME}.outcome": outcome}
            found = self._cached[verb, outcome] = {**self._attributes, **own}
        return found


def _outcome(verb: str, result: object) -> str:
    if result is None or (result is False and verb == "delete"):
        return "missing"
    return "refused" if result is False else "ok"
