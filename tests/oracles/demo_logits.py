#!/usr/bin/env python3
"""What PyTorch and transformers give for the bundled model: logits, hidden states, gate statistics and loss.

usage: demo_logits.py MODEL_DIR SENTENCES_DIR OUT.safetensors

One row per language: the first 64 ids of its file, read as one string with its newlines, without special tokens.
The weights are upcast to f32 and attention is eager, so the arithmetic is plain f32 on one thread.

  input_ids      [6, 64]        i64
  positions      [4]            i64   the positions whose logits are kept
  logits         [6, 4, vocab]  f32
  last_hidden    [6, 64, hidden] f32  after the final norm
  gate_active    [layers, ffn]  i32   tokens with act(gate) > 0, over all rows
  gate_near_zero [layers, ffn]  i32   tokens with |gate| < 1e-4: a count may differ by as much
  gate_sum, gate_sum_sq [layers, ffn] f64, gate_max [layers, ffn] f32   of act(gate)
  nll            [6]            f64   mean over the 63 predicted tokens, natural logarithm

Its metadata value `oracle` is JSON: languages (one per row), and the versions of torch and transformers.
"""
import json
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

LANGUAGES = ["eng_Latn", "mlt_Latn", "kat_Geor", "arb_Arab", "zho_Hans", "hin_Deva"]
LENGTH = 64
POSITIONS = [0, 1, 31, 63]
NEAR_ZERO = 1e-4


def windows(model_dir, sentences_dir):
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(model_dir / "tokenizer.json"))
    rows = []
    for language in LANGUAGES:
        text = (sentences_dir / f"{language}.txt").read_text(encoding="utf-8")
        rows.append(tokenizer(text, add_special_tokens=False)["input_ids"][:LENGTH])
        assert len(rows[-1]) == LENGTH, f"{language}: {len(rows[-1])} ids, but a row needs {LENGTH}"
    return torch.tensor(rows)


def watch_gates(model):
    """Registers a hook on every activation function; the lists fill as the model runs."""
    gates, activations = [], []

    def hook(_module, inputs, activation):
        gates.append(inputs[0].flatten(0, 1))
        activations.append(activation.flatten(0, 1))

    for layer in model.model.layers:
        layer.mlp.act_fn.register_forward_hook(hook)
    return gates, activations


def mean_nll(logits, ids):
    log_p = logits[:, :-1].double().log_softmax(-1)
    return -log_p.gather(-1, ids[:, 1:, None]).squeeze(-1).mean(-1)


def save(tensors, out, **facts):
    """The facts go into one metadata value: safetensors writes several in an order that changes from run to run."""
    facts |= dict(torch=torch.__version__, transformers=transformers.__version__)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, out, metadata={"oracle": json.dumps(facts)})
    out.chmod(0o644)


def main(model_dir, sentences_dir, out):
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32, attn_implementation="eager").eval()
    gates, activations = watch_gates(model)
    ids = windows(model_dir, sentences_dir)
    hidden = model.model(ids, use_cache=False).last_hidden_state
    logits = model.lm_head(hidden)

    gate, activation = torch.stack(gates), torch.stack(activations)  # [layers, tokens, ffn]
    tensors = dict(
        input_ids=ids,
        positions=torch.tensor(POSITIONS),
        logits=logits[:, POSITIONS],
        last_hidden=hidden,
        gate_active=(activation > 0).sum(1).int(),
        gate_near_zero=(gate.abs() < NEAR_ZERO).sum(1).int(),
        gate_sum=activation.double().sum(1),
        gate_sum_sq=activation.double().square().sum(1),
        gate_max=activation.amax(1),
        nll=mean_nll(logits, ids),
    )
    save(tensors, out, languages=LANGUAGES)
    for language, nll in zip(LANGUAGES, tensors["nll"].tolist()):
        print(f"{language}\t{nll:.6f}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: demo_logits.py MODEL_DIR SENTENCES_DIR OUT.safetensors")
    main(*map(Path, sys.argv[1:]))
