#!/usr/bin/env python3
"""How fast PyTorch with transformers profiles a checkpoint: the peer that neuroglot's speed is held against.

usage: peer_profile.py MODEL_DIR|--shape NAME [--layers N] [--dtype f32|bf16] [--threads 2] [--batch 4] [--context 512] [--rounds 5] [--turns] [--device cpu|cuda] [--seed 0]

--shape takes random weights of the sizes that atlas/shapes.json has under a name, as `neuroglot bench --shape` does.
It does the same work: every token passes the decoder without its head, and hooks on the activation functions count, per neuron,
the tokens whose activation is positive. Attention is PyTorch's own (sdpa), and nothing is cached. One batch of random
ids runs once to warm up and then --rounds times. Prints one JSON line: tokens_per_second is the median, spread the slowest and the fastest round.
With --turns it is for compare.py: one pass for every line on stdin, answered by one line of JSON.
"""
import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

SHAPES = Path(__file__).parents[2] / "atlas" / "shapes.json"
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def arguments():
    parser = argparse.ArgumentParser(description="Times PyTorch with transformers counting active FFN neurons.")
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("model", type=Path, nargs="?", help="a Hugging Face checkpoint folder")
    model.add_argument("--shape", help="sizes of a well-known model")
    parser.add_argument("--layers", type=int, help="of a shape, only so many")
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=4, help="windows per forward pass")
    parser.add_argument("--context", type=int, default=512, help="tokens per window")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--turns", action="store_true", help="one pass for every line on stdin")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def load(options):
    dtype = DTYPES[options.dtype]
    if options.shape is None:
        return AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype, attn_implementation="sdpa").to(options.device)
    sizes = json.loads(SHAPES.read_text(encoding="utf-8"))[options.shape]
    if options.layers:
        sizes["num_hidden_layers"] = min(options.layers, sizes["num_hidden_layers"])
    config = AutoConfig.for_model(sizes.pop("model_type"), **sizes)
    torch.set_default_dtype(dtype)
    with torch.device(options.device):
        return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")


def count_active(model, device):
    """Counts [layers, ffn] that grow with every forward pass."""
    counts = torch.zeros(model.config.num_hidden_layers, model.config.intermediate_size, dtype=torch.int64, device=device)
    for layer, row in zip(model.model.layers, counts, strict=True):
        # The default argument binds this layer's row; a plain closure would see the last one.
        layer.mlp.act_fn.register_forward_hook(lambda _module, _inputs, activation, row=row: row.add_((activation > 0).sum(dim=(0, 1))))
    return counts


def seconds_of(run, device):
    start = time.perf_counter()
    run()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main():
    options = arguments()
    torch.set_grad_enabled(False)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    model = load(options).eval()
    counts = count_active(model, options.device)
    ids = torch.randint(model.config.vocab_size, (options.batch, options.context)).to(options.device)

    def run():
        model.model(ids, use_cache=False)

    seconds_of(run, options.device)
    share = counts.sum().item() / (counts.numel() * ids.numel())
    setting = dict(
        peer="transformers",
        model=options.shape or options.model.name,
        dtype=options.dtype,
        device=options.device,
        threads=options.threads,
        batch=options.batch,
        context=options.context,
        active_share=round(share, 6),
        cpu=torch.backends.cpu.get_cpu_capability(),
        torch=torch.__version__,
        transformers=transformers.__version__,
    )

    def speed():
        return ids.numel() / seconds_of(run, options.device)

    if options.turns:
        for _ in sys.stdin:
            print(json.dumps(dict(setting, tokens_per_second=round(speed(), 1))), flush=True)
        return
    speeds = [speed() for _ in range(options.rounds)]
    spread = [round(min(speeds), 1), round(max(speeds), 1)]
    print(json.dumps(dict(setting, rounds=options.rounds, tokens_per_second=round(statistics.median(speeds), 1), spread=spread)))


if __name__ == "__main__":
    main()
