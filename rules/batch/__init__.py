"""Family 3xx: batch size and accumulation."""
