"""Car keypoints: schema, heatmap codec, loss and metrics."""
