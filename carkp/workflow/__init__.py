"""Code that stages share: everything between the libraries and a command line."""
