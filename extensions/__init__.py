"""Research parts: each registers itself and is imported only when a config names its module."""
