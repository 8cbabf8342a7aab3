#!/usr/bin/env python3
"""Tiny random Llama checkpoints that use, between them, every feature of the family, and what transformers gives for them.

usage: tiny_llama.py OUT_DIR      writes OUT_DIR/{scaled,biased,half}

  scaled   rope `llama3`, windows longer than the original context; head_dim wider than hidden / heads; untied head; f32;
           config.json as transformers 5 writes it (`dtype`, `rope_parameters`)
  biased   linear rope scaling, biases on attention and MLP, tied head, bf16 in several shards;
           config.json as transformers 4 wrote it (`torch_dtype`, `rope_scaling` with `type`, `rope_theta`)
  half     rope_theta 500000, no `head_dim` key, f16; config.json as transformers 4 wrote it

Each folder also has a character tokenizer of 64 tokens and reference.safetensors: input_ids [2, 40] i64, logits [2, 40, 64] f32,
gate_active and gate_near_zero (|gate| < 1e-4) [layers, ffn] i32 over both rows, nll [2] f64. The reference comes from the
folder as it was written, its weights upcast to f32, eager attention, one thread.
"""
import json
import shutil
import string
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from demo_logits import NEAR_ZERO, mean_nll, save, watch_gates

SHAPE = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-5,
             bos_token_id=0, eos_token_id=1, initializer_range=0.3)
LLAMA3 = dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=32)
LINEAR = dict(rope_type="linear", rope_theta=10000.0, factor=4.0)
PLAIN = dict(rope_type="default", rope_theta=500000.0)
CHECKPOINTS = {
    "scaled": dict(seed=1, dtype=torch.float32, shards="1MB",
                   config=dict(num_hidden_layers=2, head_dim=16, tie_word_embeddings=False, max_position_embeddings=256, rope_parameters=LLAMA3)),
    "biased": dict(seed=2, dtype=torch.bfloat16, shards="16KB",
                   config=dict(num_hidden_layers=3, tie_word_embeddings=True, attention_bias=True, mlp_bias=True, max_position_embeddings=128,
                               rope_parameters=LINEAR)),
    "half": dict(seed=3, dtype=torch.float16, shards="1MB",
                 config=dict(num_hidden_layers=2, tie_word_embeddings=False, max_position_embeddings=128, rope_parameters=PLAIN)),
}


def checkpoint(folder, seed, dtype, shards, config):
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, **config))
    for name, parameter in model.named_parameters():
        # A fresh model has biases of 0 and norms of 1, which would hide a bias or a norm that is not applied.
        if name.endswith("bias"):
            parameter.normal_(0, 0.3)
        if "norm" in name:
            parameter.normal_(1, 0.2)
    model.to(dtype).save_pretrained(folder, max_shard_size=shards)
    (folder / "generation_config.json").unlink()
    for file in folder.glob("*.safetensors"):
        file.chmod(0o644)
    tokenizer().save(str(folder / "tokenizer.json"))


def tokenizer():
    """One token per character: BPE without merges."""
    tokens = ["<s>", "</s>", "<unk>", "\n", " ", *".,!?'-:", *string.ascii_letters]
    assert len(tokens) == SHAPE["vocab_size"]
    made = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[], unk_token="<unk>"))
    made.decoder = decoders.Fuse()
    made.add_special_tokens(["<s>", "</s>", "<unk>"])
    return made


def spell_like_transformers_4(path):
    """Most published checkpoints were saved by version 4: other names, same meaning."""
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    kind = rope.pop("rope_type")
    config["rope_scaling"] = None if kind == "default" else {"type": kind, **rope}
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.44.0"
    del config["head_dim"]
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def reference(folder, seed):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    gates, activations = watch_gates(model)
    ids = torch.randint(3, SHAPE["vocab_size"], (2, 40), generator=torch.Generator().manual_seed(seed))
    logits = model(ids, use_cache=False).logits
    gate, activation = torch.stack(gates), torch.stack(activations)  # [layers, tokens, ffn]
    tensors = dict(
        input_ids=ids,
        logits=logits,
        gate_active=(activation > 0).sum(1).int(),
        gate_near_zero=(gate.abs() < NEAR_ZERO).sum(1).int(),
        nll=mean_nll(logits, ids),
    )
    save(tensors, folder / "reference.safetensors")
    print(f"{folder.name}\tnll {tensors['nll'].tolist()}\tlargest logit {logits.abs().max():.3f}\tnear zero {tensors['gate_near_zero'].sum()}")


def main(out):
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    for name, made in CHECKPOINTS.items():
        folder = out / name
        shutil.rmtree(folder, ignore_errors=True)
        checkpoint(folder, **made)
        if name != "scaled":
            spell_like_transformers_4(folder / "config.json")
        reference(folder, made["seed"])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: tiny_llama.py OUT_DIR")
    main(Path(sys.argv[1]))
