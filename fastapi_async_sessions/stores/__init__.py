"""Stores, which keep sessions. All but ``MemoryStore`` need a client library."""
