"""Advantages of the judge segment and of the answer segment: an estimator a file."""
