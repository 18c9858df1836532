"""`streamfuse devices`: the cameras of this machine."""

import argparse
from typing import Any


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "devices",
        help="list the cameras of this machine",
        description="Cameras with the names that stay the same from start to start, what they deliver, and "
        "which of them look thermal.",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import json
    from dataclasses import asdict

    from streamfuse.capture.devices import find_cameras

    cameras = find_cameras()
    if args.json:
        print(json.dumps([asdict(c) | {"thermal": c.thermal} for c in cameras], default=str))
        return 0
    if not cameras:
        print("no cameras: there is no /dev/video* (a container must be given its devices: --device)")
    for camera in cameras:
        print(f"{camera.device}: {camera.name or camera.problem}")
        for name in camera.stable:
            print(f"  use       {name}")
        for pixel_format in dict.fromkeys(mode.pixel_format for mode in camera.modes):
            modes = [mode for mode in camera.modes if mode.pixel_format == pixel_format]
            sizes = ", ".join(f"{mode.width}x{mode.height} @ {mode.fps:.4g}" for mode in modes)
            print(f"  {pixel_format:<9} {sizes}")
        if camera.thermal:
            print(f"  thermal?  {'; '.join(camera.thermal)}")
    return 0
