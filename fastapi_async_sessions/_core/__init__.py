"""Sessions, independent of HTTP and FastAPI."""
