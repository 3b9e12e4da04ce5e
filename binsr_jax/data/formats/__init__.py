"""The formats of picture files: which are read, as what, and within which limits."""
