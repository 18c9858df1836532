"""`streamfuse doctor`: what will work here, what will not, and why."""

import argparse
from typing import Any


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "doctor",
        help="tell what will work on this machine, what will not, and why",
        description="Looks at versions, devices, codecs, display and sockets, fuses a pair of pictures and "
        "writes a clip. Exit code 1 when fusing cannot work here, 0 otherwise.",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import json
    from dataclasses import asdict

    from streamfuse.doctor import Finding, Verdict, examine

    findings: list[Finding] = []
    for finding in examine():
        if args.json:
            print(json.dumps(asdict(finding)), flush=True)
        else:
            if not findings or findings[-1].area != finding.area:
                print(f"\n{finding.area}" if findings else finding.area)
            mark = {Verdict.OK: "ok", Verdict.LIMITED: "--", Verdict.BROKEN: "!!"}[finding.verdict]
            print(f"  {mark}  {finding.what:<16} {finding.detail}", flush=True)
            if finding.advice:
                print(f"      {'':<16} {finding.advice}")
        findings.append(finding)
    broken = [finding.what for finding in findings if finding.verdict is Verdict.BROKEN]
    if not args.json:
        print(f"\ndoes not work: {', '.join(broken)}" if broken else "\nstreamfuse works here")
    return 1 if any(f.area == "fuse" and f.verdict is Verdict.BROKEN for f in findings) else 0
