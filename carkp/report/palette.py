"""Colours of drawings in pictures."""

RIGHT_RGB, LEFT_RGB, MIDDLE_RGB = (240, 140, 0), (30, 130, 230), (235, 235, 235)
"""The car's right side, its left side, and the lines across."""

ERROR_RGB = (255, 60, 200)
"""Colour of the line from a prediction to its label."""
