"""Names of the notes that a model file carries about itself."""

PREFIX = "carkp."
PROGRAM_KEY, DIGEST_KEY = "carkp.program", "carkp.program_sha256"
TARGET_KEY, SCALES_KEY, ORIGIN_PREFIX = "carkp.target", "carkp.scales", "carkp.origin."
COMPILED_PREFIX = "carkp.compiled."
"""Of what a file says that ``compile`` made of another one."""
