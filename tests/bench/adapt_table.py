#!/usr/bin/env python3
"""The table of what adapt_experiment.sh has made: bits per byte of the target before and after, and what the other languages gained or lost.

usage: adapt_table.py OUT

Standard errors are paired over documents: of the difference of the two evaluations' influences, as `neuroglot evaluate --compare` has them; the
mean of the seeds' own.
"""
import json
import statistics
import sys
from pathlib import Path

NAMES = {"mlt_Latn": "Maltese", "isl_Latn": "Icelandic", "kat_Geor": "Georgian"}
METHODS = ["subnetwork", "random", "lora", "ia3", "last-layers", "ffn", "full"]
SEEDS = [1, 2, 3]


def bits_per_byte(place):
    """The score of every language."""
    reports = json.loads(place.read_text())["reports"]
    return {report["language"]: next(score for score in report["scores"] if score["metric"] == "bits_per_byte") for report in reports}


def paired(before, after):
    pairs = zip(before["spread"]["influence"], after["spread"]["influence"], strict=True)
    squares = [(b - a) ** 2 for a, b in pairs]
    return (sum(squares) / len(squares) / (len(squares) - 1)) ** 0.5


def main():
    out = Path(sys.argv[1])
    before = bits_per_byte(out / "base.json")
    print("| language | method | rate | target, bits per byte: mean of 3 seeds (lowest to highest) | change ± s.e. over documents | mean change of the others | worst of them |")
    print("|---|---|---:|---|---:|---:|---|")
    for language, name in NAMES.items():
        if not (out / language).is_dir():
            continue
        own = before[language]
        print(f"| {name} | before | | {own['value']:.4f} ± {own['stderr']:.4f} | | | |")
        for method in METHODS:
            place = out / language / method
            if not (place / "best").is_file():
                continue
            rate = (place / "best").read_text().strip()
            runs = [bits_per_byte(place / f"{method}-lr{rate}-seed{seed}" / "evaluation.json") for seed in SEEDS]
            found = [run[language]["value"] for run in runs]
            error = statistics.mean(paired(own, run[language]) for run in runs)
            others = [(run[other]["value"] - before[other]["value"], other) for run in runs for other in run if other != language]
            mean = statistics.mean(change for change, _ in others)
            worst, where = max(others)
            print(
                f"| | {method} | {rate} | {statistics.mean(found):.4f} ({min(found):.4f} to {max(found):.4f}) "
                f"| {statistics.mean(found) - own['value']:+.4f} ± {error:.4f} | {mean:+.4f} | {worst:+.4f} ({where}) |"
            )


if __name__ == "__main__":
    main()
