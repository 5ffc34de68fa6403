"""The results of the functions that paint a car: a finish, a reflectance and emitted light."""

MATTE, PAINT, GLASS, LENS, CHROME = 0, 1, 2, 3, 4
"""Finish of a surface."""
Surface = tuple[int, float, float, float, float]
"""Finish, linear reflectance red, green, blue, and emitted light (added, as a multiple of the colour)."""
NOTHING = -1
"""Value that replaces a finish if the body is visible."""
