"""The local page of ``carkp view``, which shows keypoints of a picture or a video frame in a browser."""
