"""Model files: read and written whole or not at all, with data in files beside them."""
