#!/usr/bin/env bash
# The bundled model, made with little Maltese, Icelandic and Georgian, adapted to each by every method on NTREX (split by documents), equal
# tokens: the rate of a method is the one of several at which seed 1 loses least on held-out documents, and three seeds run at that rate. Then
# bits per byte on text that the model has never seen, in the language and in others.
# The neurons are those of a selection so large that a language has as large a share of the weights as the paper's languages have (0.2 to 0.9 %).
# Takes two hours; interrupted, the same command continues. Prints the table at its end.
# usage: NEUROGLOT_SHARED=DIR adapt_demo.sh NEUROGLOT OUT [TOKENS [TOP_RATE]]
set -euo pipefail
[ $# -ge 2 ] || { sed -n 8p "$0" >&2; exit 2; }
neuroglot=$1 out=$2 tokens=${3:-150000} top_rate=${4:-0.2}
root=$(cd "$(dirname "$0")/../.." && pwd)
corpora=$NEUROGLOT_SHARED/corpora demo=$root/atlas/demo
mkdir -p "$out/text"
for name in ntrex-128 flores200-heldout; do
    [ -d "$out/text/$name" ] || tar xf "$corpora/$name.tar.xz" -C "$out/text"
done
[ -d "$out/atlas" ] || {
    "$neuroglot" --quiet profile --model "$demo/model" --model-id neuroglot/demo-2.7m --corpus "dir:$demo/sentences" --tokens 100000 --context 128 --out "$out/profile"
    "$neuroglot" --quiet identify "$out/profile" --top-rate "$top_rate" --out "$out/atlas"
}
adapt() {
    "$neuroglot" --quiet adapt --model "$demo/model" --model-id neuroglot/demo-2.7m --atlas "$out/atlas" --language "$language" \
        --corpus "dir:$out/text/ntrex-128" --tokens "$tokens" --context 128 --batch 8 --validate-every 25 --out "$out/$language" --sweep "$@" >/dev/null
}
# Rates that are tried, the largest of which should be too large.
rates() {
    case $1 in
        subnetwork | random) echo 1e-3,3e-3,1e-2 ;;
        ia3) echo 3e-3,1e-2,3e-2 ;;
        lora) echo 3e-4,1e-3,3e-3 ;;
        *) echo 1e-4,3e-4,1e-3 ;;
    esac
}
evaluate() {
    "$neuroglot" --quiet evaluate --model "$demo/model" --model-id neuroglot/demo-2.7m --task perplexity --corpus "dir:$out/text/flores200-heldout" \
        --document line --languages mlt,isl,kat,eng,deu,ita,dan,heb "$@" >/dev/null
}
[ -f "$out/base.json" ] || evaluate --out "$out/base.json"
for language in mlt_Latn isl_Latn kat_Geor; do
    for method in subnetwork random lora ia3 last-layers ffn full; do
        [ ! -f "$out/$language/best-$method" ] || continue
        adapt "methods=$method" seeds=1 "rates=$(rates "$method")"
        best=$(python3 -c 'import json, sys
rows = json.load(open(sys.argv[1]))["methods"]
mantissa, exponent = f"""{min(rows, key=lambda row: row["change"])["rate"]:e}""".split("e")
# As Rust writes a float in scientific notation: 1e-4.
print(f"{float(mantissa):g}e{int(exponent)}")' "$out/$language/sweep.json")
        adapt "methods=$method" seeds=1,2,3 "rates=$best"
        for seed in 1 2 3; do
            run=$out/$language/$method-lr$best-seed$seed
            [ -f "$run/evaluation.json" ] || evaluate --delta "$run" --out "$run/evaluation.json"
        done
        echo "$best" >"$out/$language/best-$method"
        echo "$(date +%T) $language $method: $best"
    done
done
python3 "$root/tests/bench/adapt_table.py" "$out"
