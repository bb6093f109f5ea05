"""Family 7xx: optimizer and parameters."""
