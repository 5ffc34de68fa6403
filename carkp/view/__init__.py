"""The local page of ``carkp view``: keypoints of a picture or a video frame, looked at in a browser."""
