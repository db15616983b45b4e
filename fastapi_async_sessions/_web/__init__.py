"""What a request is: the only place, with ``testing`` and the session service, that imports FastAPI."""
