"""What PyTorch and PEFT make of the tiny checkpoints: gradients, steps of AdamW, LoRA and (IA)3.

usage: adapt.py FIXTURES            writes FIXTURES/adapt/*.safetensors
       adapt.py logits CHECKPOINT IDS OUT [ADAPTER]
                                    logits of a checkpoint, with a PEFT adapter if one is given, for the test that applies a delta
"""

import sys
from pathlib import Path

import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

# Folder, and the modules gate, up and down of a layer: of a fused one, which part of its outputs.
FAMILIES = {
    "llama": ("tiny-llama/scaled", "model.layers.{}.mlp.gate_proj", "model.layers.{}.mlp.up_proj", "model.layers.{}.mlp.down_proj"),
    "phi3": ("families/phi3-short", "model.layers.{}.mlp.gate_up_proj:0", "model.layers.{}.mlp.gate_up_proj:1", "model.layers.{}.mlp.down_proj"),
    "gpt2": ("families/gpt2", "transformer.h.{}.mlp.c_fc", None, "transformer.h.{}.mlp.c_proj"),
    "qwen3": ("families/qwen3-untied", "model.layers.{}.mlp.gate_proj", "model.layers.{}.mlp.up_proj", "model.layers.{}.mlp.down_proj"),
}
STEPS = 10
RATE = 1e-3


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def projection(model, name):
    """The weight [out, in] of a module as a view of its parameter, and the parameter."""
    name, _, part = name.partition(":")
    module = model.get_submodule(name)
    weight = module.weight
    view = weight.t() if type(module).__name__ == "Conv1D" else weight
    if part:
        half = view.shape[0] // 2
        view = view[int(part) * half : (int(part) + 1) * half]
    return weight, view


def gathered(model, spec, layers, width, neurons, take):
    """Rows of gate and up, columns of down, of every layer: by `take(weight, view)` turned into [out, in]."""
    found = {}
    for layer in range(layers):
        for key, name in zip(("gate", "up", "down"), spec[1:]):
            if name is None:
                continue
            view = take(name.format(layer))
            found[f"layers.{layer}.mlp.{key}"] = view[:, neurons] if key == "down" else view[neurons]
    return found


def like(model, name, values):
    """Of a parameter's gradient, the part that is the projection."""
    name, _, part = name.partition(":")
    module = model.get_submodule(name)
    view = values(module.weight)
    view = view.t() if type(module).__name__ == "Conv1D" else view
    if part:
        half = view.shape[0] // 2
        view = view[int(part) * half : (int(part) + 1) * half]
    return view


def windows(ids, vocabulary, step):
    return (ids + step) % vocabulary


def subnetwork(fixtures, family, spec):
    folder = fixtures / spec[0]
    model = load(folder)
    ids = load_file(folder / "reference.safetensors")["input_ids"].long()
    layers = model.config.num_hidden_layers
    width = like(model, spec[3].format(0), lambda weight: weight).shape[1]
    neurons = torch.arange(1, width, 5)
    out = {"input_ids": ids.to(torch.int64).contiguous(), "neurons": neurons}
    loss = model(ids, labels=ids).loss
    loss.backward()
    out["loss"] = loss.detach()
    gradients = gathered(model, spec, layers, width, neurons, lambda name: like(model, name, lambda weight: weight.grad))
    out |= {f"gradient.{name}": value.detach().clone() for name, value in gradients.items()}

    # Steps on the gathered values alone, as if there were no others: AdamW must not touch the rest.
    weights = gathered(model, spec, layers, width, neurons, lambda name: like(model, name, lambda weight: weight.data))
    small = {name: torch.nn.Parameter(value.clone()) for name, value in weights.items()}
    optimiser = torch.optim.AdamW(small.values(), lr=RATE, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    losses, norms = [], []
    for step in range(STEPS):
        model.zero_grad()
        data = windows(ids, model.config.vocab_size, step)
        loss = model(data, labels=data).loss
        loss.backward()
        gradients = gathered(model, spec, layers, width, neurons, lambda name: like(model, name, lambda weight: weight.grad))
        for name, parameter in small.items():
            parameter.grad = gradients[name].clone()
        norms.append(torch.nn.utils.clip_grad_norm_(small.values(), 1.0))
        optimiser.step()
        losses.append(loss.detach())
        with torch.no_grad():
            for layer in range(layers):
                for key, name in zip(("gate", "up", "down"), spec[1:]):
                    if name is None:
                        continue
                    view = like(model, name.format(layer), lambda weight: weight.data)
                    values = small[f"layers.{layer}.mlp.{key}"]
                    if key == "down":
                        view[:, neurons] = values
                    else:
                        view[neurons] = values
    out["losses"] = torch.stack(losses)
    out["norms"] = torch.stack(norms)
    out |= {f"after.{name}": value.detach() for name, value in small.items()}
    save_file({name: value.contiguous() for name, value in out.items()}, fixtures / "adapt" / f"{family}.safetensors")


def adapter(fixtures, method):
    folder = fixtures / "tiny-llama/scaled"
    ids = load_file(folder / "reference.safetensors")["input_ids"].long()
    torch.manual_seed(20261126)
    if method == "lora":
        config = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=["gate_proj", "up_proj", "down_proj"], task_type="CAUSAL_LM")
    else:
        config = IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(load(folder), config)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    out = {"input_ids": ids.contiguous()}
    out |= {f"before.{name}": value.detach().clone() for name, value in trained.items()}
    optimiser = torch.optim.AdamW(trained.values(), lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    losses = []
    for step in range(STEPS):
        optimiser.zero_grad()
        data = windows(ids, model.config.vocab_size, step)
        loss = model(input_ids=data, labels=data).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
        optimiser.step()
        losses.append(loss.detach())
    out["losses"] = torch.stack(losses)
    out["logits"] = model(input_ids=ids).logits.detach()
    out |= {f"after.{name}": value.detach() for name, value in trained.items()}
    save_file({name: value.contiguous() for name, value in out.items()}, fixtures / "adapt" / f"{method}.safetensors")


def logits(checkpoint, ids, out, folder=None):
    model = load(checkpoint)
    if folder:
        model = PeftModel.from_pretrained(model, folder)
    data = load_file(ids)["input_ids"].long()
    with torch.no_grad():
        save_file({"logits": model(input_ids=data).logits.contiguous()}, out)


if __name__ == "__main__":
    if sys.argv[1] == "logits":
        logits(*sys.argv[2:])
    else:
        root = Path(sys.argv[1])
        (root / "adapt").mkdir(exist_ok=True)
        for family, spec in FAMILIES.items():
            subnetwork(root, family, spec)
        adapter(root, "lora")
        adapter(root, "ia3")
