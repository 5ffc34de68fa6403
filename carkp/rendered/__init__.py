"""Cars rendered from meshes: a second generated source, with the rasteriser of ``carkp.synthetic``."""
