"""Family 6xx: evaluation and inference."""
