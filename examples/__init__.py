"""Example programs, and the guide that leads through them: README.md."""
