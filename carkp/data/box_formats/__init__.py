"""Boxes of cars as detectors and labelling tools write them: one module a format, and what they have in common."""
