"""Judging result pictures and clips: many metrics, several methods and the trivial ones, side by side."""
