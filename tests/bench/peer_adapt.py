"""Training tokens per second and peak memory: neuroglot against PyTorch with transformers, each in a process of its own, in turns.

usage: peer_adapt.py MODEL CORPUS NEUROGLOT [--neurons N] [--rounds R] [--steps S] [--variants A,B] [--device cpu|cuda] [--dtype f32|bf16] [--run VARIANT]

Peak memory is that of the process on the CPU, and that of the tensors on a GPU.

Variants
  clones   PyTorch, the published routine: at every forward a dense clone of each FFN matrix into which the trained rows or columns are
           laid, and so a dense gradient of each
  lora     PyTorch with PEFT: LoRA of rank 32 on gate, up and down
  full     PyTorch, every weight
  ours, ours-recompute, ours-lora, ours-full   the same by neuroglot
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CONTEXT, BATCH = 512, 2
VARIANTS = ["clones", "ours", "lora", "ours-lora", "full", "ours-full", "ours-recompute"]


def config(model):
    return json.loads((Path(model) / "config.json").read_text())


def neurons(model, count):
    """The same neurons for everybody: evenly spread."""
    width = config(model)["intermediate_size"]
    return [i * width // count for i in range(count)]


def peer(variant, args):
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[args.dtype]
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype).to(args.device)
    model.train()
    if variant == "clones":
        model.requires_grad_(False)
        index = torch.tensor(neurons(args.model, args.neurons), device=args.device)

        class Cloned(torch.nn.Module):
            def __init__(self, linear, columns):
                super().__init__()
                self.weight, self.bias, self.columns = linear.weight, linear.bias, columns
                rows = linear.weight.data[:, index] if columns else linear.weight.data[index]
                self.trained = torch.nn.Parameter(rows.clone())

            def forward(self, x):
                weight = self.weight.clone()
                if self.columns:
                    weight[:, index] = self.trained
                else:
                    weight[index] = self.trained
                return torch.nn.functional.linear(x, weight, self.bias)

        for layer in model.model.layers:
            layer.mlp.gate_proj = Cloned(layer.mlp.gate_proj, False)
            layer.mlp.up_proj = Cloned(layer.mlp.up_proj, False)
            layer.mlp.down_proj = Cloned(layer.mlp.down_proj, True)
    elif variant == "lora":
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(r=32, lora_alpha=64, lora_dropout=0.1, target_modules=["gate_proj", "up_proj", "down_proj"], task_type="CAUSAL_LM"))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.01)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    text = (Path(args.corpus) / "mlt_Latn.txt").read_text()
    ids = torch.tensor(tokenizer(text)["input_ids"])[: CONTEXT * BATCH * 40].view(-1, BATCH, CONTEXT).to(args.device)
    begun = None
    for step in range(args.steps + 1):
        if step == 1:
            begun = time.perf_counter()
        data = ids[step % len(ids)]
        loss = model(input_ids=data, labels=data).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        loss.item()
    seconds = time.perf_counter() - begun
    if args.device == "cuda":
        return args.steps * CONTEXT * BATCH / seconds, torch.cuda.max_memory_allocated()
    return args.steps * CONTEXT * BATCH / seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def mask(model, count, place):
    """A mask file as `neuroglot mask` writes it."""
    import numpy
    from safetensors.numpy import save_file

    sizes = config(model)
    layers, width = sizes["num_hidden_layers"], sizes["intermediate_size"]
    bits = numpy.zeros((layers, width), dtype=numpy.uint8)
    bits[:, neurons(model, count)] = 1
    said = {"model": "bench", "layers": str(layers), "width": str(width), "method": "even", "run": "bench", "top_rate": "0.01"}
    save_file({"mlt_Latn": numpy.packbits(bits, axis=1, bitorder="little")}, place, metadata=said)


def ours(variant, args):
    with tempfile.TemporaryDirectory() as folder:
        place = str(Path(folder) / "mask.safetensors")
        mask(args.model, args.neurons, place)
        method = {"ours-lora": "lora", "ours-full": "full"}.get(variant, "subnetwork")
        command = [args.neuroglot, "--quiet", "adapt", "--model", args.model, "--model-id", "bench", "--atlas", place]
        command += ["--language", "mlt", "--corpus", f"dir:{args.corpus}", "--method", method, "--out", str(Path(folder) / "run")]
        command += ["--tokens", str((args.steps + 1) * CONTEXT * BATCH), "--validation-tokens", "512", "--save-every", "1000000"]
        command += ["--device", args.device, "--dtype", args.dtype]
        command += ["--recompute"] if variant == "ours-recompute" else []
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        speed = json.loads((Path(folder) / "run" / "speed.jsonl").read_text())
        return speed["tokens_per_second"], speed["peak_memory"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("corpus")
    parser.add_argument("neuroglot")
    parser.add_argument("--neurons", type=int, default=15, help="trained neurons per layer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--variants", type=lambda text: text.split(","), default=VARIANTS)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--run", choices=VARIANTS)
    args = parser.parse_args()
    if args.run:
        speed, memory = (ours if args.run.startswith("ours") else peer)(args.run, args)
        print(json.dumps({"variant": args.run, "tokens_per_second": speed, "peak_bytes": memory}))
        return
    found = {variant: [] for variant in args.variants}
    for _ in range(args.rounds):
        for variant in args.variants:
            ended = subprocess.run([sys.executable, *sys.argv, "--run", variant], capture_output=True, text=True)
            if ended.returncode:
                sys.exit(f"{variant} failed:\n{ended.stderr[-3000:]}")
            found[variant].append(json.loads(ended.stdout.splitlines()[-1]))
            print(ended.stdout.splitlines()[-1], file=sys.stderr, flush=True)
    print("| variant | tokens/s, median | lowest | highest | peak memory |\n|---|---|---|---|---|")
    for variant, runs in found.items():
        speeds = sorted(run["tokens_per_second"] for run in runs)
        memory = max(run["peak_bytes"] for run in runs)
        print(f"| {variant} | {speeds[len(speeds) // 2]:.0f} | {speeds[0]:.0f} | {speeds[-1]:.0f} | {memory / 1e9:.2f} GB |")


if __name__ == "__main__":
    main()
