"""The session service as it is deployed: an ASGI application that finds its settings outside."""

import os

from fastapi_async_sessions.stores.service import session_service
from fastapi_async_sessions.stores.sql import SQLStore

app = session_service(
    SQLStore.from_url(os.environ["SESSIONS_URL"], create_table=True),
    token=os.environ["SESSIONS_TOKEN"],
)
