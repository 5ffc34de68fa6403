"""Preparation of data: from CarFusion's raw layout and other sources to packed crops and batches."""
