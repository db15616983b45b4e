"""Demo users, kept in memory; their passwords are hashed as in a real application."""

import secrets

from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError
from fastapi.concurrency import run_in_threadpool

DEMO = {"demo": "correct-horse-battery", "admin": "staple-staple-staple"}
ADMINS = {"admin"}

_hasher = PasswordHasher()
_hashes = {name: _hasher.hash(password) for name, password in DEMO.items()}
_nobody = _hasher.hash(secrets.token_urlsafe(32))


async def is_right(name: str, password: str) -> bool:
    """Check a user's password. An unknown name takes as long as a wrong password.

    Hashing is slow on purpose, so it runs in a thread. A real application also limits the number
    of attempts.
    """
    return await run_in_threadpool(_verify, _hashes.get(name, _nobody), password)


async def change_password(name: str, password: str) -> None:
    _hashes[name] = await run_in_threadpool(_hasher.hash, password)


def names() -> list[str]:
    return list(_hashes)


def _verify(password_hash: str, password: str) -> bool:
    try:
        return _hasher.verify(password_hash, password)
    except VerifyMismatchError:
        return False
