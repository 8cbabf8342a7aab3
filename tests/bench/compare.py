#!/usr/bin/env python3
"""Times two programs in turns, so that a machine that slows down slows both, and says how they compare.

usage: compare.py --ours COMMAND --peer COMMAND [--rounds 20] [--json OUT]

A command is one string for the shell. Both are started once and stay; for each line that a program is given on stdin it does its work once and
answers with a line of JSON that has `tokens_per_second`. What they print on stderr is passed on. The order alternates: ours, peer, peer,
ours, ours, peer … The ratio is the median of the rounds' own ratios, ours / peer: above 1, ours is faster.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

# Threads of the program whose turn is over spin a while for more work; they are not to disturb the other one.
PAUSE = 0.3


class Program:
    def __init__(self, command):
        self.command = command
        self.process = subprocess.Popen(command, shell=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def turn(self):
        """The JSON line that the program answers with."""
        time.sleep(PAUSE)
        line = ""
        try:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
            result = json.loads(line)
            result["tokens_per_second"] = float(result["tokens_per_second"])
        except (BrokenPipeError, KeyError, TypeError, ValueError):
            sys.exit(f"`{self.command}` must answer a line with JSON that has tokens_per_second, but it printed: {line[-500:]!r}")
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
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the result here")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be 1 or more")

    programs = dict(ours=Program(options.ours), peer=Program(options.peer))
    for program in programs.values():
        program.turn()  # loads and warms up
    results = dict(ours=[], peer=[])
    for number in range(options.rounds):
        for name in ("ours", "peer") if number % 2 == 0 else ("peer", "ours"):
            results[name].append(programs[name].turn())
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
