"""The command ``carkp``. Modules here import what is heavy within the commands that need it."""
