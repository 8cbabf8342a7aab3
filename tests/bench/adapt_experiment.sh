#!/usr/bin/env bash
# The paper's experiment in miniature: a model adapted to languages by several methods on NTREX (split by documents), equal tokens. The rate of a
# method is the one of several at which seed 1 loses least on held-out documents, the largest of which should be too large; three seeds run at that
# rate. Then bits per byte on text that none of them has seen (flores200-heldout), in the language and in others; the table at the end.
#   demo      the bundled model, made with little Maltese, Icelandic and Georgian; two hours on two cores
#   smollm2   SmolLM2-135M (its folder is MODEL) on Maltese
# The neurons are those of a selection so large that a language has as large a share of the weights as the paper's languages have (0.2 to 0.9 %).
# JOBS pairs of language and method run at once; ON says where, as in ON="--device cuda --dtype f32". Interrupted, the same command continues.
# usage: NEUROGLOT_SHARED=DIR adapt_experiment.sh NEUROGLOT OUT demo | smollm2 MODEL
set -euo pipefail
[ $# -ge 3 ] || { sed -n 9p "$0" >&2; exit 2; }
neuroglot=$1 out=$2 name=$3
root=$(cd "$(dirname "$0")/../.." && pwd)
case $name in
    demo)
        model=$root/atlas/demo/model model_id=neuroglot/demo-2.7m corpus=$root/atlas/demo/sentences top_rate=${TOP_RATE:-0.2}
        profile="--tokens 100000 --context 128" size="--tokens 150000 --context 128 --batch 8"
        languages="mlt_Latn isl_Latn kat_Geor" every=25 methods="subnetwork random lora ia3 last-layers ffn full"
        seen=mlt,isl,kat,eng,deu,ita,dan,heb
        ;;
    smollm2)
        model=$4 model_id=HuggingFaceTB/SmolLM2-135M-Instruct corpus=$out/text/ntrex-128 top_rate=${TOP_RATE:-0.05}
        profile="--tokens 20000 --context 512" size="--tokens 200000 --context 512 --batch 2"
        languages=mlt_Latn every=39 methods="subnetwork random lora full"
        seen=mlt,eng,ita,deu,fra,heb
        ;;
    *) sed -n 9p "$0" >&2; exit 2 ;;
esac
on=${ON:-}

adapt() {
    "$neuroglot" --quiet adapt --model "$model" --model-id "$model_id" --atlas "$out/atlas" --language "$language" --corpus "dir:$out/text/ntrex-128" \
        $size --validate-every $every --save-every 1000000 $on --out "$out/$language/$method" --sweep "$@" >/dev/null
}
rates() {
    case $name-$1 in
        demo-subnetwork | demo-random) echo 3e-3,1e-2,3e-2,1e-1 ;;
        demo-ia3) echo 1e-2,3e-2,1e-1,3e-1 ;;
        demo-lora) echo 1e-3,3e-3,1e-2,3e-2 ;;
        demo-last-layers) echo 3e-3,1e-2,3e-2,1e-1 ;;
        demo-*) echo 3e-4,1e-3,3e-3,1e-2 ;;
        smollm2-subnetwork | smollm2-random) echo 1e-3,3e-3,1e-2,3e-2 ;;
        smollm2-lora) echo 3e-4,1e-3,3e-3,1e-2 ;;
        smollm2-*) echo 3e-5,1e-4,3e-4,1e-3 ;;
    esac
}
evaluate() {
    "$neuroglot" --quiet evaluate --model "$model" --model-id "$model_id" --task perplexity --corpus "dir:$out/text/flores200-heldout" \
        --document line --languages "$seen" $on "$@" >/dev/null
}

# One pair of language and method.
if [ $# -gt 4 ] && [ "$5" = --pair ]; then
    language=$6 method=$7
    adapt "methods=$method" seeds=1 "rates=$(rates "$method")"
    best=$(python3 -c 'import json, sys
rows = json.load(open(sys.argv[1]))["methods"]
mantissa, exponent = f"""{min(rows, key=lambda row: row["change"])["rate"]:e}""".split("e")
# As Rust writes a float in scientific notation: 1e-4.
print(f"{float(mantissa):g}e{int(exponent)}")' "$out/$language/$method/sweep.json")
    adapt "methods=$method" seeds=1,2,3 "rates=$best"
    for seed in 1 2 3; do
        run=$out/$language/$method/$method-lr$best-seed$seed
        [ -f "$run/evaluation.json" ] || evaluate --delta "$run" --out "$run/evaluation.json"
    done
    echo "$best" >"$out/$language/$method/best"
    echo "$(date +%T) $language $method: $best"
    exit
fi

mkdir -p "$out/text"
for text in ntrex-128 flores200-heldout; do
    [ -d "$out/text/$text" ] || tar xf "$NEUROGLOT_SHARED/corpora/$text.tar.xz" -C "$out/text"
done
[ -d "$out/atlas" ] || {
    "$neuroglot" --quiet profile --model "$model" --model-id "$model_id" --corpus "dir:$corpus" $profile $on --out "$out/profile"
    "$neuroglot" --quiet identify "$out/profile" --top-rate "$top_rate" --out "$out/atlas"
}
[ -f "$out/base.json" ] || evaluate --out "$out/base.json"
for language in $languages; do
    for method in $methods; do
        [ -f "$out/$language/$method/best" ] || echo "$language $method"
    done
done | xargs -r -P "${JOBS:-1}" -n 2 "$0" "$neuroglot" "$out" "$name" "${4:-}" --pair
python3 "$root/tests/bench/adapt_table.py" "$out"
