"""The page that opens the box: a finished run in, one HTML file out, in which every number can be seen."""
