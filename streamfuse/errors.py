"""Everything streamfuse raises on purpose.

A message says what was wrong, where (file, key, stream) and what would be right. The command line
turns every `StreamfuseError` into one line on stderr and exit code 2.
"""


class StreamfuseError(Exception):
    """Base of all errors a user can cause or meet."""


class ConfigError(StreamfuseError):
    """An option is unknown, out of range or contradicts another one."""


class SourceError(StreamfuseError):
    """A source cannot be opened or read, and trying again will not help."""


class SourceInterrupted(SourceError):
    """A live source stopped delivering; a reconnect may bring it back."""


class SinkError(StreamfuseError):
    """A sink cannot be opened or written. What it had already written is kept."""


class CalibrationError(StreamfuseError):
    """A rig calibration cannot be read, or could not be estimated from the clips given."""


class WeightsError(StreamfuseError):
    """A weight file is missing, damaged, unsafe or does not fit its network."""


class DataError(StreamfuseError):
    """Input pictures or arrays do not have the shape, type or range that is needed."""


class WireError(StreamfuseError):
    """Bytes on a topic are not a message of the wire schema, or one cannot be made of a frame."""


class StaleError(StreamfuseError):
    """No message as fresh as asked for."""
