#!/usr/bin/env bash
# The bundled model, made with little Maltese, Icelandic and Georgian, adapted to each by every method on NTREX (split by documents), equal
# tokens, three seeds and three learning rates a method; then bits per byte of the best rate's deltas on text that the model has never seen.
# Takes hours on two cores; interrupted, the same command continues.
# usage: NEUROGLOT_SHARED=DIR adapt_demo.sh NEUROGLOT OUT [TOKENS]
set -euo pipefail
[ $# -ge 2 ] || { sed -n 5p "$0" >&2; exit 2; }
neuroglot=$1 out=$2 tokens=${3:-500000}
root=$(cd "$(dirname "$0")/../.." && pwd)
corpora=$NEUROGLOT_SHARED/corpora
mkdir -p "$out/text"
for name in ntrex-128 flores200-heldout; do
    [ -d "$out/text/$name" ] || tar xf "$corpora/$name.tar.xz" -C "$out/text"
done
for language in mlt_Latn isl_Latn kat_Geor; do
    "$neuroglot" adapt --model "$root/atlas/demo/model" --model-id neuroglot/demo-2.7m --atlas "$root/atlas/demo-atlas" \
        --language "$language" --corpus "dir:$out/text/ntrex-128" --tokens "$tokens" --context 128 --batch 8 \
        --validate-every 50 --out "$out/$language" --sweep methods=all seeds=1,2,3 rates=1e-4,1e-3,1e-2
done

# The rate that helped a method most, and each seed's delta at it, on text of other kinds and in other languages.
for language in mlt_Latn isl_Latn kat_Geor; do
    python3 - "$out/$language/sweep.json" <<'PYTHON' | while read -r run; do
import json, sys
best = {}
for row in json.load(open(sys.argv[1]))["methods"]:
    if row["method"] not in best or row["change"] < best[row["method"]]["change"]:
        best[row["method"]] = row
for row in best.values():
    # As Rust writes a float in scientific notation: 1e-4.
    mantissa, exponent = f"{row['rate']:e}".split("e")
    for seed in (1, 2, 3):
        print(f"{row['method']}-lr{float(mantissa):g}e{int(exponent)}-seed{seed}")
PYTHON
        "$neuroglot" evaluate --model "$root/atlas/demo/model" --model-id neuroglot/demo-2.7m --delta "$out/$language/$run" --base \
            --task perplexity --corpus "dir:$out/text/flores200-heldout" --document line --languages mlt,isl,kat,eng,deu,ita,dan,heb \
            --out "$out/$language/$run/evaluation.json"
    done
done
