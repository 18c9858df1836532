"""Blocks shared by the networks, checkpoint loading and the bundled weights."""
