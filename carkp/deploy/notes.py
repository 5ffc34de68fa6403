"""Names of the notes (metadata) in a model file."""

PREFIX = "carkp."
PROGRAM_KEY, DIGEST_KEY = "carkp.program", "carkp.program_sha256"
TARGET_KEY, SCALES_KEY, ORIGIN_PREFIX = "carkp.target", "carkp.scales", "carkp.origin."
COMPILED_PREFIX = "carkp.compiled."
"""Prefix of the notes in a file that ``compile`` made from another file."""
