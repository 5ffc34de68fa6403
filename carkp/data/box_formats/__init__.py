"""Formats in which detectors and labelling tools write boxes of cars: one module per format, and shared code."""
