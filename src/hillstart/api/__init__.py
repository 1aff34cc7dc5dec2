"""The Python interface: train, open a run, and the estimator of scikit-learn; `hillstart` lists its names."""
