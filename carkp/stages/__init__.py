"""One module per MLproject entry point."""
