"""Research parts: imported only when a config names their module."""
