"""What a session is. Nothing here knows HTTP or FastAPI."""
