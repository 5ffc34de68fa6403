"""Material ids, which meshes contain and shaders read."""

PLAIN = 0
"""Attributes: red, green, blue, and, if above 1, the light emitted at night as a multiple of this colour."""
FACADE = 1
"""Attributes: metres along the wall, metres above ground, index of the building, height of the wall."""
FOLIAGE = 2
"""Attributes: red, green, blue, unused."""
CAR_BODY = 3
"""Attributes: ring coordinate (0 underside, 1-2 side, 2-3 greenhouse, 3-4 top),
z above the belt line, z below the roof edge, x before nose and tail were bent."""
CAR_FRONT = 4
CAR_REAR = 5
WHEEL = 6
"""Attributes: position on the wheel's face, x and z over the radius; radius over the wheel's radius; unused."""
CAR_DARK = 7
CAR_TRIM = 8
"""Add-on parts. Attributes: 0 black, 1 painted, 2 a lit sign, 3 silver; unused."""
WIRE = 9
"""Like PLAIN, but too thin to cast a shadow. Attributes: red, green, blue, gloss."""
CAR_CARGO = 10
"""A lorry's box, tank or bed; the shader does not read the attributes, only position and normal."""
