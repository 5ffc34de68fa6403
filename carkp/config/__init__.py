"""Typed configuration: frozen schema and YAML loading."""
