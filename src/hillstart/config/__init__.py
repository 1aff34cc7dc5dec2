"""The options of a run: checked, and turned from conf into objects."""
