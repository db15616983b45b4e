"""Typed, server-side sessions for FastAPI, as dependencies."""

__version__ = "0.1.0"
