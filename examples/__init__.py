"""Example programs, listed in the README."""
