"""The keypoint network."""
