"""Rig geometry: how infrared pixels map to visible ones before any registrar looks."""
