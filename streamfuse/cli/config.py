"""`streamfuse config`: check a configuration file, show what it means, print the schema."""

import argparse
from typing import Any


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "config", help="check or show a configuration file, or print its schema"
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, text in (
        ("check", "validate the file; every mistake is named"),
        ("show", "print the full effective configuration"),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument("config", metavar="CONFIG.yaml")
        action.add_argument(
            "--set", dest="overrides", metavar="A.B=VALUE", action="append", default=[], help="change a value"
        )
    actions.add_parser("schema", help="print the JSON Schema of the file")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import json

    import yaml

    from streamfuse.config import config_schema, dump_config, load_config

    if args.action == "schema":
        print(json.dumps(config_schema(), indent=2))
        return 0
    config = load_config(args.config, args.overrides)
    if args.action == "show":
        print(yaml.safe_dump(dump_config(config), sort_keys=False), end="")
    else:
        print(f"{args.config}: valid")
    return 0
