"""What a car's painters answer: a finish, a reflectance and own light."""

MATTE, PAINT, GLASS, LENS, CHROME = 0, 1, 2, 3, 4
"""Finish of a surface."""
Surface = tuple[int, float, float, float, float]
"""Finish, linear reflectance red, green, blue, and own light (added, as a multiple of the colour)."""
NOTHING = -1
"""In place of a finish: the body shows."""
