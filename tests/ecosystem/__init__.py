"""Packages that users of FastAPI have, each used as its own documentation says.

They come with the extra ``ecosystem``; a test whose package is missing is skipped.
"""
