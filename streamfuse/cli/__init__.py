"""The `streamfuse` command: one file per subcommand, each parses, calls one function and prints."""

import argparse
import codecs
import io
import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from streamfuse import __version__
from streamfuse.errors import StreamfuseError

COMMANDS = (
    "demo",
    "fuse",
    "run",
    "probe",
    "devices",
    "synth",
    "calibrate",
    "offset",
    "eval",
    "warm",
    "model",
    "bench",
    "weights",
    "train",
    "config",
    "doctor",
)
UNPRINTABLE = "streamfuse-unprintable"
"""Name of the error handler for characters that cannot be printed."""
PATH_ERRORS = (PermissionError, FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError)
"""Of the operating system: a path that was given is not what is needed."""
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def build_parser() -> argparse.ArgumentParser:
    """All commands and options. Imports nothing heavy."""
    parser = argparse.ArgumentParser(
        prog="streamfuse",
        description="Real-time fusion of unsynchronised infrared and visible video.",
    )
    parser.add_argument("--version", action="version", version=f"streamfuse {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="log what happens inside, to stderr")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        import_module(f"streamfuse.cli.{name}").add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0 done, 1 some work failed, 2 bad input, 130 interrupted."""
    _print_anything()
    args = build_parser().parse_args(argv)
    logging.basicConfig(
        level=logging.INFO if args.verbose else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s" if args.verbose else "%(levelname)s: %(message)s",
    )
    try:
        return int(args.run(args) or 0)
    except StreamfuseError as error:
        print(f"streamfuse {args.command}: {error}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return EXIT_FAILED
    except OSError as error:  # a full disk under stdout, a folder that went away
        where = f"{error.filename}: " if error.filename else ""
        print(f"streamfuse {args.command}: {where}{error.strerror or error}", file=sys.stderr)
        return EXIT_USAGE if isinstance(error, PATH_ERRORS) else EXIT_FAILED


def _print_anything() -> None:
    """What a terminal's encoding lacks becomes a question mark, and file names keep their bytes."""
    codecs.register_error(UNPRINTABLE, _printable)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=UNPRINTABLE)


def _printable(error: UnicodeError) -> tuple[bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return b"".join(os.fsencode(c) if "\udc80" <= c <= "\udcff" else b"?" for c in text), error.end
