"""What a request is: cookies, headers, routes. FastAPI is imported here, in ``testing`` and in
``stores.service`` only."""
