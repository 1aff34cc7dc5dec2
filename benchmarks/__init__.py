"""Measurements against the machine's own limit and against peers: `make bench`, `make results`."""
