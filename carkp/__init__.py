"""carkp: train, quantise and ship car keypoint detectors."""

__version__ = "0.1.0"
