"""Family 9xx: host memory."""
