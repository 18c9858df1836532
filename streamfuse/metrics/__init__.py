"""Image quality, registration and temporal metrics: pure functions on arrays."""
