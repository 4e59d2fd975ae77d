"""Many CTs: found, answered independently of each other, and told as one table (docs/decisions/0007)."""
