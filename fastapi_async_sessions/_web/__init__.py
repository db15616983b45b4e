"""The HTTP side: cookies, headers, routes. Only this package, ``testing`` and ``stores.service``
import FastAPI."""
