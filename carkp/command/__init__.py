"""The command ``carkp``. Modules here import heavy packages inside the commands that need them."""
