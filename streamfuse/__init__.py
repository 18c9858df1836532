"""Real-time fusion of unsynchronised infrared and visible video."""

__version__ = "0.1.0"
