"""From conf to objects: the options of a run, checked and built."""
