"""Trained networks put to use: model file, classifier, vote, calibration, explanation, export."""
