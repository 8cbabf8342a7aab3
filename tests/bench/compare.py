#!/usr/bin/env python3
"""Times two programs in turns, so that a machine that slows down slows both, and says how they compare.

usage: compare.py --ours COMMAND --peer COMMAND [--rounds 5] [--json OUT]

A command is one string for the shell. The last line that it prints on stdout is JSON with `tokens_per_second`; what it prints on
stderr is passed on. The order alternates: ours, peer, peer, ours, ours, peer …
The ratio is the median of the rounds' own ratios, ours / peer: above 1, ours is faster.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path


def measure(command):
    """The JSON line that the command ends with."""
    done = subprocess.run(command, shell=True, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"`{command}` ended with exit code {done.returncode}")
    lines = done.stdout.strip().splitlines()
    try:
        result = json.loads(lines[-1])
        result["tokens_per_second"] = float(result["tokens_per_second"])
    except (IndexError, KeyError, TypeError, ValueError):
        sys.exit(f"`{command}` must end with a JSON line that has tokens_per_second, but it printed: {done.stdout[-500:]!r}")
    return result


def summary(values):
    return dict(median=statistics.median(values), min=min(values), max=max(values), rounds=values)


def row(name, values, digits):
    numbers = (f"{values[key]:>12.{digits}f}" for key in ("median", "min", "max"))
    return f"{name:<22}{''.join(numbers)}{(values['max'] - values['min']) / values['median']:>9.1%}"


def main():
    parser = argparse.ArgumentParser(description="Times two programs in turns.")
    parser.add_argument("--ours", required=True, metavar="COMMAND")
    parser.add_argument("--peer", required=True, metavar="COMMAND")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the result here")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be 1 or more")

    commands = dict(ours=options.ours, peer=options.peer)
    results = dict(ours=[], peer=[])
    for number in range(options.rounds):
        for name in ("ours", "peer") if number % 2 == 0 else ("peer", "ours"):
            results[name].append(measure(commands[name]))
            print(f"round {number + 1}/{options.rounds} {name}: {results[name][-1]['tokens_per_second']:.1f} tokens/s", file=sys.stderr)

    speeds = {name: [result["tokens_per_second"] for result in results[name]] for name in results}
    ours, peer = summary(speeds["ours"]), summary(speeds["peer"])
    ratio = summary([a / b for a, b in zip(speeds["ours"], speeds["peer"])])
    print(f"{'':<22}{'median':>12}{'min':>12}{'max':>12}{'spread':>9}")
    print(row("ours, tokens/s", ours, 1))
    print(row("peer, tokens/s", peer, 1))
    print(row("ours / peer", ratio, 3))
    if options.json:
        report = dict(ours=ours, peer=peer, ratio=ratio, details={name: results[name][-1] for name in results})
        # Written beside its place and renamed, so that a reader never sees half a file.
        beside = options.json.with_name(options.json.name + ".part")
        beside.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        os.replace(beside, options.json)


if __name__ == "__main__":
    main()
