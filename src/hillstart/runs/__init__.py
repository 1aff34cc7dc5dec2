"""The folder of a run: written, read back, summarised, compared."""
