"""The page that opens the box."""
