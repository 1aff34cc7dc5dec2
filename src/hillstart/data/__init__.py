"""Labelled pictures: a file per source, one preprocessing, an audit, mini-batches."""
