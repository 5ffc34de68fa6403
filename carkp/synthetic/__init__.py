"""Generated cars in CarFusion's raw layout."""
