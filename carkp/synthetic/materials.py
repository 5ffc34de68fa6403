"""Material ids that meshes carry and shaders read."""

PLAIN = 0
"""Attributes: red, green, blue, gloss."""
FACADE = 1
"""Attributes: metres along the wall, metres above ground, index of the building, height of the wall."""
FOLIAGE = 2
"""Attributes: red, green, blue, unused."""
CAR_BODY = 3
"""Attributes: ring coordinate (0 underside, 1-2 side, 2-3 greenhouse, 3-4 top),
z above the belt line, z below the roof edge, unused."""
CAR_FRONT = 4
CAR_REAR = 5
WHEEL = 6
"""Attributes: position on the wheel's face, x and z over the radius; radius over the wheel's radius; unused."""
CAR_DARK = 7
CAR_TRIM = 8
"""Body-coloured or black add-on parts. Attributes: 1 painted or 0 black, unused."""
WIRE = 9
"""Like PLAIN, but too thin to cast a shadow. Attributes: red, green, blue, gloss."""
