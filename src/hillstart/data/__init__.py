"""Labelled pictures to tensors, with fixed splits: one module per source."""
