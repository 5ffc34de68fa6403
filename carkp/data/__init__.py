"""From CarFusion's raw layout to packed crops and batches."""
