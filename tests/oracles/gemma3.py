#!/usr/bin/env python3
"""What transformers computes with Gemma 3 270M from its GGUF file: the reference of tests/suite/gguf.rs for real weights.

usage: gemma3.py FILE.gguf OUT.safetensors     (the weights are fetched by whoever may have them; only these numbers are kept)

For five languages one window of 128 tokens of the bundled sentences, without BOS:

  ids_CODE          [1, 128]        i64
  logits_CODE       [8, 512]        f32  at positions 15, 31, … 127, of every 512th token id
  active_CODE       [18, 2048]      u8   tokens with act(gate) > 0
  near_zero_CODE    [18, 2048]      u8   tokens with |gate| < 1e-4
  prompt_CODE       [1, n]          i64  the beginning of a sentence, with BOS (French, Russian, Hindi, Japanese)
  continuation_CODE [16]            i64  what greedy decoding makes of it

Dequantised weights in f32, eager attention, one thread.
"""
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from demo_logits import NEAR_ZERO, save, watch_gates

SENTENCES = Path(__file__).resolve().parents[2] / "atlas/demo/sentences"
LANGUAGES = ["fra_Latn", "hin_Deva", "jpn_Jpan", "mlt_Latn", "rus_Cyrl"]
PROMPTS = {
    "fra_Latn": "La capitale de la France est",
    "rus_Cyrl": "Столица России — город",
    "hin_Deva": "भारत की राजधानी",
    "jpn_Jpan": "日本の首都は",
}
WINDOW = 128


def main(weights, out):
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    folder, name = weights.parent, weights.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32, attn_implementation="eager").eval()
    gates, activations = watch_gates(model)
    tensors = {}
    for code in LANGUAGES:
        text = (SENTENCES / f"{code}.txt").read_text(encoding="utf-8")
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids[:, :WINDOW]
        gates.clear()
        activations.clear()
        logits = model(ids, use_cache=False).logits[0]
        gate, activation = torch.stack(gates), torch.stack(activations)  # [layers, tokens, ffn]
        tensors[f"ids_{code}"] = ids
        tensors[f"logits_{code}"] = logits[15::16, ::512].contiguous()
        tensors[f"active_{code}"] = (activation > 0).sum(1).to(torch.uint8)
        tensors[f"near_zero_{code}"] = (gate.abs() < NEAR_ZERO).sum(1).to(torch.uint8)
    for code, text in PROMPTS.items():
        prompt = tokenizer(text, return_tensors="pt").input_ids
        whole = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=16, min_new_tokens=16, do_sample=False)
        tensors[f"prompt_{code}"], tensors[f"continuation_{code}"] = prompt, whole[0, prompt.shape[1]:].contiguous()
        print(code, tokenizer.decode(whole[0]))
    save(tensors, out)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: gemma3.py FILE.gguf OUT.safetensors")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
