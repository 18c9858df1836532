"""Types of arguments, for argparse."""

import argparse
import math


def parse_seconds(text: str) -> float:
    """A finite number above 0."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds
