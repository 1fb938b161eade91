"""Pack clips into large files made for random access, and read them."""
