"""Family 8xx: loading, distribution, allocator."""
