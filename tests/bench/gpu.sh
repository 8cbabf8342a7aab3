#!/usr/bin/env bash
# What a machine with an NVIDIA GPU shows in a few minutes: the bundled model's neurons on the GPU against the CPU's, the share of the GPU's rate
# that profiling reaches, and neuroglot against PyTorch with transformers in turns. Tables on stdout, all figures below OUT.
# `processor`, when asked for, is the same in turns on the machine's processor, which may have instructions that others have not.
# usage: gpu.sh NEUROGLOT OUT [check] [rate] [peers] [train] [processor]      (built with --features cuda; python3 has torch, transformers and peft)
set -euo pipefail
[ $# -ge 2 ] || { grep -m1 '^# usage' "$0" >&2; exit 2; }
neuroglot=$(realpath "$1") out=$2
shift 2
[ $# -gt 0 ] || set -- check rate peers train
root=$(cd "$(dirname "$0")/../.." && pwd)
bench=$root/tests/bench
mkdir -p "$out"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null || echo "no GPU: only 'processor' can run"

# Jaccard of every language's neurons, the lowest and their mean.
check() {
    local corpus="dir:$root/atlas/demo/sentences" place
    for place in "cpu f32" "cuda f32" "cuda bf16"; do
        set -- $place
        "$neuroglot" --quiet profile --model "$root/atlas/demo/model" --model-id neuroglot/demo-2.7m --corpus "$corpus" --tokens 10000 --context 128 \
            --document line --device "$1" --dtype "$2" --out "$out/profile-$1-$2"
        "$neuroglot" --quiet identify "$out/profile-$1-$2" --top-rate 0.05 --out "$out/atlas-$1-$2"
    done
    for place in cuda-f32 cuda-bf16; do
        "$neuroglot" --json compare "$out/atlas-cpu-f32" "$out/atlas-$place" >"$out/compare-$place.json"
        python3 - "$out/compare-$place.json" "$place" <<'PYTHON'
import json, sys
rows = json.load(open(sys.argv[1]))["pairs"]
found = [row["jaccard"] for row in rows if row["jaccard"] is not None]
print(f"{sys.argv[2]} against cpu-f32: {len(found)} languages, Jaccard mean {sum(found) / len(found):.4f}, lowest {min(found):.4f}")
PYTHON
    done
    # Training: the losses of every step and the held-out ones.
    mkdir -p "$out/lines"
    sed G "$root"/atlas/demo/sentences/mlt_Latn.txt >"$out/lines/mlt_Latn.txt"
    for place in "cpu f32" "cuda f32" "cuda bf16"; do
        set -- $place
        for method in subnetwork lora full; do
            "$neuroglot" --quiet adapt --model "$root/atlas/demo/model" --model-id neuroglot/demo-2.7m --atlas "$root/atlas/demo-atlas" --language mlt \
                --corpus "dir:$out/lines" --tokens 20000 --context 128 --batch 4 --validate-every 10 --method "$method" --dropout 0 --lr 1e-3 \
                --device "$1" --dtype "$2" --out "$out/adapt-$method-$1-$2" >/dev/null
        done
    done
    python3 - "$out" <<'PYTHON'
import json, sys
from pathlib import Path
def losses(method, place):
    lines = (Path(sys.argv[1]) / f"adapt-{method}-{place}" / "metrics.jsonl").read_text().splitlines()
    return [line.get("loss", line.get("validation")) for line in map(json.loads, lines)]
for method in ("subnetwork", "lora", "full"):
    wanted = losses(method, "cpu-f32")
    for place in ("cuda-f32", "cuda-bf16"):
        found = losses(method, place)
        assert len(found) == len(wanted), (method, place)
        furthest = max(abs(a - b) for a, b in zip(found, wanted))
        print(f"adapt {method}, {place} against cpu-f32: {len(found)} losses, furthest apart {furthest:.2e} nats; last {wanted[-1]:.4f} and {found[-1]:.4f}")
PYTHON
}

# The share of the product's rate, and the memory beyond the weights.
rate() {
    local shape
    for shape in llama-3.1-8b mistral-nemo gemma-3-270m; do
        (while sleep 0.2; do nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits; done >"$out/memory-$shape" 2>/dev/null) &
        "$neuroglot" --json bench --shape "$shape" --device cuda --rounds 9 >"$out/bench-$shape.json"
        kill $! 2>/dev/null || true
        python3 - "$out/bench-$shape.json" "$out/memory-$shape" <<'PYTHON'
import json, sys
m = json.load(open(sys.argv[1]))
peak = max(int(line) for line in open(sys.argv[2]))
print(f"{m['model']}: {m['batch']} x {m['context']}, product {m['product_flops'] / 1e12:.0f} TFLOP/s, copy {m['copy_bytes'] / 1e12:.2f} TB/s, "
      f"{m['tokens']:.0f} tokens/s ({m['tokens_spread'][0]:.0f} to {m['tokens_spread'][1]:.0f}), {m['share']:.1%} of the product's rate; nvidia-smi peak {peak} MiB")
PYTHON
    done
}

# in_turns NAME BOTH OURS PEER: neuroglot and PyTorch by turns; the flags of both, ours before the command, and the peer's.
in_turns() {
    python3 "$bench/compare.py" --rounds "${ROUNDS:-8}" --json "$out/$1.json" --ours "$neuroglot --quiet $3 bench --turns $2" \
        --peer "python3 $bench/peer_profile.py --turns $2 $4" 2>>"$out/in-turns.log"
}

# In turns on the same windows: the peer at the batch that suits it best.
peers() {
    local shape batch
    for shape in ${SHAPES:-llama-3.1-8b mistral-nemo gemma-3-270m}; do
        for batch in ${BATCHES:-4 32}; do
            echo "$shape, the peer with batches of $batch windows"
            in_turns "peers-$shape-$batch" "--shape $shape --device cuda --dtype bf16" "" "--batch $batch"
        done
    done
}

# In turns on the processor, with as many threads as the figures of other machines are for, and with all.
processor() {
    local threads dtype
    grep -m1 'model name' /proc/cpuinfo
    echo "instructions for bf16: $(grep -m1 flags /proc/cpuinfo | grep -oE 'avx512_bf16|amx_[a-z0-9]+' | tr '\n' ' ')"
    for threads in $(printf '%s\n' 2 "$(nproc)" | sort -nu); do
        for dtype in bf16 f32; do
            "$neuroglot" --quiet --threads "$threads" bench --shape smollm2-135m --device cpu --dtype "$dtype" --rounds 3
            echo "smollm2-135m in $dtype, $threads threads"
            in_turns "processor-$dtype-$threads" "--shape smollm2-135m --device cpu --dtype $dtype" "--threads $threads" "--threads $threads"
        done
    done
}

# Training in bf16, on a model of few layers of an 8B shape with random weights.
train() {
    python3 - "$root/atlas/demo/model" "$out/wide" "${LAYERS:-8}" <<'PYTHON'
import json, shutil, sys, torch
from pathlib import Path
from transformers import AutoConfig, AutoModelForCausalLM
base, out, layers = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
sizes = json.loads((base.parents[1] / "shapes.json").read_text())["llama-3.1-8b"]
sizes |= dict(num_hidden_layers=layers, vocab_size=json.loads((base / "config.json").read_text())["vocab_size"], tie_word_embeddings=True)
torch.set_default_dtype(torch.bfloat16)
with torch.device("cuda"):
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(sizes.pop("model_type"), **sizes))
model.to("cpu").save_pretrained(out)
for name in ("tokenizer.json", "tokenizer_config.json"):
    shutil.copy(base / name, out / name)
PYTHON
    mkdir -p "$out/text"
    # Every sentence a document.
    sed G "$root"/atlas/demo/sentences/*_Latn.txt >"$out/text/mlt_Latn.txt"
    python3 "$bench/peer_adapt.py" "$out/wide" "$out/text" "$neuroglot" --device cuda --dtype bf16 --neurons 94 --steps 40 --rounds "${ROUNDS:-2}" \
        --variants clones,ours,lora,ours-lora,ours-recompute
}

for part in "$@"; do
    "$part"
done
