"""The contract of a store."""

from abc import ABC, abstractmethod
from typing import Any

from ..errors import ConfigurationError
from ..records import Record


class Store(ABC):
    """Keeps records under keys. Subclass it, write the four verbs, inherit ``StoreContract``.

    Keys are 64 lower-case hexadecimal digits. Each verb is one atomic step, whatever else runs at
    the same time, here or in another process. A record whose ``expires_at`` has come is not
    there, for any verb. Each raises ``StoreUnavailable`` when it can't tell what happened.
    """

    @abstractmethod
    async def create(self, key: str, record: Record) -> bool:
        """Store a record under a key that has none.

        False: the key exists, and what is there stays. True also when this very write is there
        already (the same version): drivers send again when a reply was lost.
        """

    @abstractmethod
    async def load(self, key: str) -> Record | None:
        """The record as it was stored. None: missing or expired."""

    @abstractmethod
    async def save(self, key: str, record: Record, *, replaces: str) -> bool:
        """Store a record over the one with the version ``replaces``, and over no other.

        False: it is gone, expired or of another version, and nothing was written; a record that
        was deleted or has expired never comes back. True also when this very write is there
        already.
        """

    @abstractmethod
    async def delete(self, key: str) -> bool:
        """Remove a record. False: nothing was there."""

    async def find(self, subject: str) -> list[tuple[str, Record]]:
        """The live records of a subject with their keys, the one that expires last first."""
        raise ConfigurationError(
            f"{type(self).__name__} does not list sessions: write find(subject) to use "
            "sessions() and revoke_all()"
        )

    async def purge(self) -> int:
        """Remove what has expired, and say how many; 0 where the store does it by itself."""
        return 0

    async def clear(self) -> None:
        """Remove every record of this store, and nothing else."""
        raise ConfigurationError(f"{type(self).__name__} does not clear: write clear() to use it")

    async def open(self) -> None:
        """Get ready; called once before the first request where ``lifespan`` is used."""

    async def aclose(self) -> None:
        """Let go of what ``open`` and the verbs took."""

    def claim(self, name: str) -> None:
        """Note that a provider of this name keeps its sessions here.

        Raises:
            ConfigurationError: another provider of that name does so already; each would
                overwrite the other's cookie.
        """
        attributes: dict[str, Any] = vars(self)
        names: set[str] = attributes.setdefault("_claimed", set())
        if name in names:
            raise ConfigurationError(
                f"this store already serves a provider named {name!r}: "
                f'give one of them another name, as in SessionProvider(..., name="{name}-2")'
            )
        names.add(name)
