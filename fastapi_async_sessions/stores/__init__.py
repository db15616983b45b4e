"""Where sessions are kept. Each store but the one in memory needs its client library."""
