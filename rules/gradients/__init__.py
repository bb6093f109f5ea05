"""Family 2xx: gradients and step hygiene."""
