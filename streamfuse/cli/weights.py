"""`streamfuse weights`: convert checkpoints, list and verify weight files."""

import argparse
import json
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "weights", help="convert a checkpoint, or list and verify weight files"
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    convert = actions.add_parser(
        "import",
        help="convert a checkpoint of another program; nothing in it is executed",
        description="Convert a PyTorch checkpoint (state dict or whole pickled module), a Jittor pickle or "
        "a safetensors file to a weight file. Nothing in it is executed; its author's code is not needed.",
    )
    convert.add_argument("file", metavar="FILE", type=Path)
    convert.add_argument(
        "-o", "--output", metavar="OUT.safetensors", type=Path, help="default: FILE with that suffix"
    )
    convert.add_argument("--model", metavar="NAME", help="the network it is of; default: recognised")
    convert.add_argument("--force", action="store_true", help="replace the output when it exists")
    actions.add_parser("list", help="the weights that come with the package")
    show = actions.add_parser("show", help="verify a weight file and print where it comes from")
    show.add_argument("weights", metavar="NAME|FILE")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    return {"import": _import, "list": _list, "show": _show}[args.action](args)


def _import(args: argparse.Namespace) -> int:
    from streamfuse.nn.convert import import_weights

    done = import_weights(args.file, args.output, model=args.model, overwrite=args.force)
    print(f"{args.file}: {done.format}, network {done.model}")
    print(f"wrote {done.weights.path}: {done.tensors} tensors, {done.values:,} values")
    print(f"sha256 {done.weights.sha256}, recorded in {done.weights.path.with_suffix('.json').name}")
    if done.unused:
        print(f"left out {len(done.unused)} tensors that the network is known never to use:")
        for name in done.unused:
            print(f"  {name}")
    if done.counters:
        print(f"left out {len(done.counters)} counters of training (num_batches_tracked and the like)")
    return 0


def _list(args: argparse.Namespace) -> int:
    from streamfuse.nn.weights import bundled_names, find_weights

    found = [find_weights(name) for name in bundled_names()]
    for weights in found:
        what = weights.provenance.get("what", "")
        size = f"{weights.size / 1e6:.1f} MB"
        print(f"{weights.name:<24} {size:>9}  sha256 {weights.sha256[:16]}  {what}")
    if not found:
        print("no weights come with the package; `streamfuse weights import FILE` converts a checkpoint")
    return 0


def _show(args: argparse.Namespace) -> int:
    from streamfuse.nn.checkpoint import read_checkpoint
    from streamfuse.nn.weights import find_weights

    weights = find_weights(args.weights)
    checkpoint = read_checkpoint(weights.path)
    print(f"file    {weights.path}")
    print(f"size    {weights.size:,} bytes, {checkpoint.format}, {len(checkpoint.tensors)} tensors")
    verified = "as recorded" if weights.provenance else "no provenance record beside it"
    print(f"sha256  {weights.sha256} ({verified})")
    for key, value in weights.provenance.items():
        if key != "sha256":
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            print(f"{key}: {text}")
    return 0
