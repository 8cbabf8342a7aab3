#!/usr/bin/env python3
"""Tiny random checkpoints of every architecture, with its special features switched on, and what transformers gives for them.

usage: tiny_families.py OUT_DIR [NAME...]      writes OUT_DIR/NAME for every row of CHECKPOINTS, or for the names

Each folder has config.json, weights under the names of the published files, and reference.safetensors. A row says which
published config.json it is spelled like; only sizes, windows and constants are smaller. `modern` rows have the config.json that
transformers 5 writes instead (`dtype`, `rope_parameters`, `layer_types`).

  input_ids      [2, 25]              i64
  logits         [2, 25, vocab]       f32  after logit scale and soft cap
  last_hidden    [2, 25, hidden]      f32  what the head multiplies
  gate_active    [layers, ffn]        i32  tokens with act(gate) > 0 over both rows; without a gate, act(first projection) > 0
  gate_near_zero [layers, ffn]        i32  tokens with |gate| < 1e-6
  nll            [2]                  f64  mean over the 24 predicted tokens, natural logarithm

For a mixture of experts the counts are [layers, experts * ffn], experts outermost, over the tokens routed to the expert, and

  routed         [layers, experts]    i32  tokens routed to the expert

The reference comes from the folder as it was written, its weights upcast to f32, eager attention, one thread. The ids are drawn
until no gate and no choice of experts is close enough to a tie for rounding to decide it.
"""
import itertools
import json
import re
import shutil
import sys
import zlib
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Callable

import torch
from huggingface_hub import save_torch_state_dict
from torch import nn
from torch.nn.functional import linear
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

from demo_logits import mean_nll, save

LENGTH = 25
NEAR_ZERO = 1e-6
# Two correct implementations in f32 differ by less.
GATE_MARGIN = 5e-5
ROUTER_MARGIN = 1e-3


@dataclass
class Checkpoint:
    """A row of CHECKPOINTS."""

    config: dict
    """config.json as published."""
    modern: bool = False
    """config.json as transformers 5 writes it instead."""
    published: Callable[[dict], dict] = lambda weights: weights
    """From the tensors of transformers' model to the tensors of the published file."""
    unread: str = "nothing"
    """Tensors of the file that transformers does not use (a pattern)."""
    std: dict = field(default_factory=dict)
    """Deviations of weights whose name has the key, where DEVIATION would give logits or routers that are too small."""
    shards: str = "1MB"
    """The largest file of weights."""
    dtype: str = "float16"
    """Of the weights, where config.json does not say it."""


# ---------------------------------------------------------------------------------------------------------------- the checkpoints

SIZES = dict(vocab_size=64, hidden_size=32, intermediate_size=44, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=2)
SHARED = dict(attention_dropout=0.0, bos_token_id=1, eos_token_id=2, initializer_range=0.02, use_cache=True)


def config(architecture, model_type, *parts, torch_dtype="bfloat16", transformers_version, **fields):
    made = dict(architectures=[architecture], model_type=model_type, torch_dtype=torch_dtype, transformers_version=transformers_version)
    for part in (*parts, fields):
        made |= part
    return made


def renamed(*pairs):
    """Renames tensors by regular expressions, in order."""

    def published(weights):
        for pattern, name in pairs:
            weights = {re.sub(pattern, name, old): tensor for old, tensor in weights.items()}
        return weights

    return published


def with_buffers(module, buffers):
    """Adds what older versions of transformers stored beside the weights of both layers."""

    def published(weights):
        return weights | {f"{module.format(layer)}.{name}": buffer.clone() for layer in range(2) for name, buffer in buffers.items()}

    return published


def experts_apart(gate, up, down):
    """transformers 5 holds all experts of a layer in one tensor; published files have a tensor per expert and projection."""

    def published(weights):
        apart = {}
        for name, tensor in weights.items():
            module, _, projection = name.partition(".experts.")
            parts = {"gate_up_proj": [gate, up], "down_proj": [down]}.get(projection)
            if parts is None:
                apart[name] = tensor
                continue
            for expert, matrices in enumerate(tensor):
                for part, matrix in zip(parts, matrices.chunk(len(parts))):
                    apart[f"{module}.experts.{expert}.{part}.weight"] = matrix.clone()
        return apart

    return published


def steps(*published):
    return lambda weights: reduce(lambda made, step: step(made), published, weights)


def tril(length):
    """The causal mask, [1, 1, length, length]."""
    return torch.ones(1, 1, length, length).tril()


YARN = dict(factor=4.0, original_max_position_embeddings=16)

# mistralai/Mistral-7B-v0.1 has a window, Mistral-Nemo-Base-2407 none and heads wider than hidden / heads.
MISTRAL_7B = config("MistralForCausalLM", "mistral", SIZES, dict(bos_token_id=1, eos_token_id=2, initializer_range=0.02, use_cache=True),
                    hidden_act="silu", max_position_embeddings=32768, rms_norm_eps=1e-05, rope_theta=10000.0, sliding_window=8,
                    tie_word_embeddings=False, transformers_version="4.34.0.dev0")
MISTRAL_NEMO = config("MistralForCausalLM", "mistral", SIZES, SHARED, head_dim=16, hidden_act="silu", max_position_embeddings=128000,
                      rms_norm_eps=1e-05, rope_theta=1000000.0, sliding_window=None, tie_word_embeddings=False,
                      transformers_version="4.43.0.dev0")

# Qwen/Qwen2.5-0.5B; `rope_scaling` as its model card spells it.
QWEN2 = config("Qwen2ForCausalLM", "qwen2", SIZES, SHARED, hidden_act="silu", max_position_embeddings=32768, max_window_layers=24,
               rms_norm_eps=1e-06, rope_theta=1000000.0, sliding_window=32768, tie_word_embeddings=True, use_mrope=False,
               use_sliding_window=False, transformers_version="4.40.1")
QWEN2_YARN = QWEN2 | dict(intermediate_size=50, tie_word_embeddings=False, rope_scaling=dict(YARN, type="yarn"))
QWEN2_WINDOW = QWEN2 | dict(num_hidden_layers=3, intermediate_size=40, use_sliding_window=True, sliding_window=8, max_window_layers=1)

# Qwen/Qwen3-0.6B
QWEN3 = config("Qwen3ForCausalLM", "qwen3", SIZES, SHARED, attention_bias=False, head_dim=16, hidden_act="silu",
               max_position_embeddings=40960, max_window_layers=28, rms_norm_eps=1e-06, rope_scaling=None, rope_theta=1000000,
               sliding_window=None, tie_word_embeddings=True, use_sliding_window=False, transformers_version="4.51.0")
QWEN3_UNTIED = QWEN3 | dict(num_key_value_heads=1, attention_bias=True, tie_word_embeddings=False, use_sliding_window=True,
                            sliding_window=8, max_window_layers=1, rope_scaling=dict(YARN, rope_type="yarn"))

# google/gemma-7b: `gelu` there means its tanh approximation, and no `tie_word_embeddings` means tied.
GEMMA_SIZES = SIZES | dict(num_key_value_heads=1, head_dim=16)
GEMMA_SHARED = dict(attention_bias=False, attention_dropout=0.0, bos_token_id=2, eos_token_id=1, pad_token_id=0, initializer_range=0.02,
                    rms_norm_eps=1e-06, use_cache=True)
GEMMA = config("GemmaForCausalLM", "gemma", GEMMA_SIZES, GEMMA_SHARED, hidden_act="gelu", hidden_activation=None,
               max_position_embeddings=8192, rope_scaling=None, rope_theta=10000.0, transformers_version="4.38.0.dev0")
GEMMA_TANH = GEMMA | dict(hidden_act="gelu_pytorch_tanh", hidden_activation="gelu_pytorch_tanh", intermediate_size=48)

# google/gemma-2-27b (whose query_pre_attn_scalar is hidden / heads, not head_dim) and gemma-2-2b
GEMMA2 = config("Gemma2ForCausalLM", "gemma2", GEMMA_SIZES, GEMMA_SHARED, num_hidden_layers=3, intermediate_size=40,
                attn_logit_softcapping=2.0, cache_implementation="hybrid", final_logit_softcapping=5.0, hidden_act="gelu_pytorch_tanh",
                hidden_activation="gelu_pytorch_tanh", max_position_embeddings=8192, query_pre_attn_scalar=9, rope_theta=10000.0,
                sliding_window=8, sliding_window_size=8, _attn_implementation="eager", transformers_version="4.42.0.dev0")
GEMMA2_NO_CAPS = GEMMA2 | dict(num_hidden_layers=2, num_key_value_heads=2, attn_logit_softcapping=None, final_logit_softcapping=None,
                               query_pre_attn_scalar=16)

# google/gemma-3-1b-pt; gemma-3-270m, written by a later version, names each layer; `rope_scaling` as in the larger ones.
GEMMA3 = config("Gemma3ForCausalLM", "gemma3_text", GEMMA_SIZES, GEMMA_SHARED, num_hidden_layers=3, intermediate_size=42,
                attn_logit_softcapping=None, cache_implementation="hybrid", eos_token_id=[1, 62], final_logit_softcapping=None,
                hidden_activation="gelu_pytorch_tanh", max_position_embeddings=32768, query_pre_attn_scalar=12, rope_local_base_freq=10000,
                rope_scaling=dict(factor=8.0, rope_type="linear"), rope_theta=1000000, sliding_window=8, sliding_window_pattern=3,
                transformers_version="4.50.0.dev0")
GEMMA3_270M = {key: value for key, value in GEMMA3.items() if key not in ("cache_implementation", "sliding_window_pattern")} | dict(
    _sliding_window_pattern=3, eos_token_id=1, intermediate_size=40, rope_local_base_freq=10000.0,
    rope_scaling=None, rope_theta=1000000.0, layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    use_bidirectional_attention=False, transformers_version="4.55.0.dev0")

# google/gemma-3-27b-it: the text model's config inside, with few fields, and the weights beside a vision tower.
GEMMA3_VISION = config(
    "Gemma3ForConditionalGeneration", "gemma3", boi_token_index=255999, eoi_token_index=256000, eos_token_id=[1, 62],
    image_token_index=262144, initializer_range=0.02, mm_tokens_per_image=1, transformers_version="4.50.0.dev0",
    text_config=dict(head_dim=16, hidden_size=32, intermediate_size=28, model_type="gemma3_text", num_attention_heads=2,
                     num_hidden_layers=6, num_key_value_heads=1, query_pre_attn_scalar=12, vocab_size=64,
                     rope_scaling=dict(factor=8.0, rope_type="linear"), sliding_window=8),
    vision_config=dict(hidden_size=8, image_size=4, intermediate_size=8, model_type="siglip_vision_model", num_attention_heads=2,
                       num_hidden_layers=1, patch_size=2, vision_use_head=False))
GEMMA3_VISION_LAYERS = GEMMA3_VISION | dict(text_config=GEMMA3_VISION["text_config"] | dict(
    intermediate_size=44, num_attention_heads=4, num_hidden_layers=2, layer_types=["sliding_attention", "full_attention"]))

# microsoft/Phi-3-mini-4k-instruct has a window; Phi-3.5-mini-instruct and Phi-4-mini-instruct have longrope, Phi-4 partial rotary.
PHI3_SHARED = dict(attention_dropout=0.0, bos_token_id=1, eos_token_id=2, pad_token_id=0, embd_pdrop=0.0, resid_pdrop=0.0,
                   initializer_range=0.02, use_cache=True)
PHI3 = config("Phi3ForCausalLM", "phi3", SIZES, PHI3_SHARED, num_key_value_heads=4, hidden_act="silu", max_position_embeddings=4096,
              original_max_position_embeddings=4096, rms_norm_eps=1e-05, rope_scaling=None, rope_theta=10000.0, sliding_window=8,
              tie_word_embeddings=False, transformers_version="4.40.2")
PHI3_LONG = PHI3 | dict(intermediate_size=42, attention_bias=False, max_position_embeddings=512, original_max_position_embeddings=16,
                        sliding_window=262144, transformers_version="4.43.3", rope_scaling=dict(
                            long_factor=[1.1, 2.5, 7.0, 24.0], short_factor=[1.0, 1.05, 1.5, 2.0], type="longrope"))
PHI4_MINI = PHI3 | dict(intermediate_size=40, num_attention_heads=2, num_key_value_heads=1, attention_bias=False, full_attn_mod=1,
                        interpolate_factor=1, lm_head_bias=False, mlp_bias=False, partial_rotary_factor=0.75,
                        max_position_embeddings=2048, original_max_position_embeddings=64, sliding_window=262144,
                        tie_word_embeddings=True, transformers_version="4.45.0", rope_scaling=dict(
                            long_factor=[1, 1.2, 2.5, 6.0, 15.0, 30.0], short_factor=[1.0, 1.1, 1.2, 1.5, 2.0, 3.0], type="longrope"))

# allenai/OLMo-2-1124-7B
OLMO2 = config("Olmo2ForCausalLM", "olmo2", SIZES, num_key_value_heads=4, attention_bias=False, attention_dropout=0.0,
               eos_token_id=2, pad_token_id=None, hidden_act="silu", initializer_range=0.02, max_position_embeddings=4096,
               rms_norm_eps=1e-06, rope_scaling=None, rope_theta=500000, tie_word_embeddings=False, use_cache=True,
               transformers_version="4.47.0.dev0")
OLMO2_GROUPED = OLMO2 | dict(num_key_value_heads=2, intermediate_size=42, attention_bias=True)

# CohereLabs/aya-expanse-8b; c4ai-command-r-plus normalises queries and keys.
COHERE_SHARED = dict(attention_bias=False, attention_dropout=0.0, bos_token_id=5, eos_token_id=6, pad_token_id=0, hidden_act="silu",
                     initializer_range=0.02, layer_norm_eps=1e-05, use_cache=True)
COHERE = config("CohereForCausalLM", "cohere", SIZES, COHERE_SHARED, logit_scale=0.0625, max_position_embeddings=8192, rope_theta=10000,
                use_qk_norm=False, torch_dtype="float16", transformers_version="4.44.0")
COHERE_PLUS = COHERE | dict(intermediate_size=42, logit_scale=0.8333333333333334, rope_theta=75000000.0, use_qk_norm=True,
                            attention_bias=True)
# Tied embeddings times a small logit scale need large embeddings, and those large layers to be heard beside them.
COHERE_STD = {"embed_tokens": 4.0, "o_proj": 1.0, "down_proj": 1.0}

# CohereLabs/c4ai-command-r7b-12-2024; tiny-aya names each layer.
COHERE2 = config("Cohere2ForCausalLM", "cohere2", SIZES, COHERE_SHARED, num_hidden_layers=3, cache_implementation="hybrid", head_dim=8,
                 layer_switch=3, logit_scale=0.25, max_position_embeddings=132096, order_of_interleaved_layers="local_attn_first",
                 position_embedding_type="rope_gptj", rope_scaling=None, rope_theta=50000, rotary_pct=1.0, sliding_window=8,
                 sliding_window_pattern=3, use_embedding_sharing=True, use_gated_activation=True, use_parallel_block=True,
                 use_parallel_embedding=False, use_qk_norm=False, transformers_version="4.48.0.dev0")
COHERE2_LAYERS = {key: value for key, value in COHERE2.items() if key not in ("cache_implementation", "sliding_window_pattern")} | dict(
    num_hidden_layers=2, layer_types=["full_attention", "sliding_attention"], logit_scale=1.0, attention_bias=True)

# HuggingFaceTB/SmolLM3-3B: 1 in `no_rope_layers` means rotary.
SMOLLM3 = config("SmolLM3ForCausalLM", "smollm3", SIZES, SHARED, num_hidden_layers=3, attention_bias=False, hidden_act="silu",
                 bos_token_id=1, eos_token_id=2, pad_token_id=None, layer_types=["full_attention"] * 3, max_position_embeddings=65536,
                 max_window_layers=28, mlp_bias=False, no_rope_layer_interval=4, no_rope_layers=[1, 0, 1], pretraining_tp=2,
                 rms_norm_eps=1e-06, rope_scaling=None, rope_theta=5000000.0, sliding_window=None, use_sliding_window=False,
                 transformers_version="4.54.0.dev0")
SMOLLM3_WINDOW = {key: value for key, value in SMOLLM3.items() if key not in ("layer_types", "no_rope_layers")} | dict(
    num_hidden_layers=2, intermediate_size=42, no_rope_layer_interval=2, sliding_window=8, use_sliding_window=True, attention_bias=True,
    mlp_bias=True, tie_word_embeddings=False)

# EleutherAI/pythia-70m, whose file also has buffers.
NEOX = config("GPTNeoXForCausalLM", "gpt_neox", vocab_size=64, hidden_size=32, intermediate_size=52, num_attention_heads=2,
              num_hidden_layers=2, bos_token_id=0, eos_token_id=0, hidden_act="gelu", initializer_range=0.02, layer_norm_eps=1e-05,
              max_position_embeddings=32, rotary_emb_base=10000, rotary_pct=0.25, tie_word_embeddings=False, use_cache=True,
              use_parallel_residual=True, torch_dtype="float16", transformers_version="4.24.0")
NEOX_BUFFERS = {"bias": tril(32).bool(), "masked_bias": torch.tensor(-1e9), "rotary_emb.inv_freq": torch.tensor([1, 0.01]).half()}
NEOX_SEQUENTIAL = NEOX | dict(num_attention_heads=4, rotary_emb_base=25000, rotary_pct=0.5, use_parallel_residual=False,
                              attention_bias=False, max_position_embeddings=2048)

# microsoft/phi-2
PHI = config("PhiForCausalLM", "phi", vocab_size=64, hidden_size=32, intermediate_size=52, num_attention_heads=2, num_key_value_heads=2,
             num_hidden_layers=2, attention_dropout=0.0, bos_token_id=2, eos_token_id=2, embd_pdrop=0.0, resid_pdrop=0.1,
             hidden_act="gelu_new", initializer_range=0.02, layer_norm_eps=1e-05, max_position_embeddings=2048, partial_rotary_factor=0.4,
             qk_layernorm=False, rope_scaling=None, rope_theta=10000.0, tie_word_embeddings=False, use_cache=True, torch_dtype="float16",
             transformers_version="4.37.0")
PHI_NORM = PHI | dict(num_attention_heads=4, partial_rotary_factor=0.5, qk_layernorm=True)

# bigscience/bloom-560m, whose tensors have no prefix and whose config says `n_embed` and `num_attention_heads`; bigscience/bloom.
BLOOM_SHARED = dict(apply_residual_connection_post_layernorm=False, attention_dropout=0.0, attention_softmax_in_fp32=True,
                    bos_token_id=1, eos_token_id=2, hidden_dropout=0.0, initializer_range=0.02, layer_norm_epsilon=1e-05,
                    masked_softmax_fusion=True, n_layer=2, pretraining_tp=1, unk_token_id=0, use_cache=True, vocab_size=64)
BLOOM_560M = dict(BLOOM_SHARED, architectures=["BloomForCausalLM"], model_type="bloom", bias_dropout_fusion=True, n_embed=32,
                  n_inner=None, num_attention_heads=4, offset_alibi=100, pad_token_id=3, seq_length=2048, skip_bias_add=True,
                  skip_bias_add_qkv=False, slow_but_exact=False, transformers_version="4.20.0")
BLOOM = dict(BLOOM_SHARED, architectures=["BloomForCausalLM"], model_type="bloom", hidden_size=24, n_head=6, pad_token_id=3,
             slow_but_exact=False, transformers_version="4.21.0.dev0")

# facebook/opt-125m; opt-350m normalises after each block and projects its embeddings; facebook/galactica-125m has no biases.
OPT = config("OPTForCausalLM", "opt", _remove_final_layer_norm=False, activation_dropout=0.0, activation_function="relu",
             attention_dropout=0.0, bos_token_id=2, do_layer_norm_before=True, dropout=0.1, eos_token_id=2, ffn_dim=52, hidden_size=32,
             init_std=0.02, layerdrop=0.0, max_position_embeddings=40, num_attention_heads=4, num_hidden_layers=2, pad_token_id=1,
             prefix="</s>", use_cache=True, vocab_size=64, word_embed_proj_dim=32, torch_dtype="float16",
             transformers_version="4.21.0.dev0")

# openai-community/gpt2, in f32 with the causal masks; stanford-crfm/alias-gpt2-small-x21 scales by the layer.
GPT2 = dict(activation_function="gelu_new", architectures=["GPT2LMHeadModel"], attn_pdrop=0.1, bos_token_id=2, embd_pdrop=0.1,
            eos_token_id=2, initializer_range=0.02, layer_norm_epsilon=1e-05, model_type="gpt2", n_ctx=32, n_embd=16, n_head=2,
            n_layer=2, n_positions=32, resid_pdrop=0.1, summary_activation=None, summary_first_dropout=0.1, summary_proj_to_labels=True,
            summary_type="cls_index", summary_use_proj=True, vocab_size=64,
            task_specific_params={"text-generation": dict(do_sample=True, max_length=50)})
GPT2_SCALED = GPT2 | dict(n_embd=32, n_head=4, n_inner=52, reorder_and_upcast_attn=True, scale_attn_by_inverse_layer_idx=True,
                          scale_attn_weights=True, torch_dtype="bfloat16", transformers_version="4.12.0")

# mistralai/Mixtral-8x7B-v0.1
MIXTRAL = config("MixtralForCausalLM", "mixtral", SIZES, SHARED, intermediate_size=20, hidden_act="silu", max_position_embeddings=32768,
                 num_experts_per_tok=2, num_local_experts=4, output_router_logits=False, rms_norm_eps=1e-05, rope_theta=1000000.0,
                 router_aux_loss_coef=0.02, sliding_window=None, tie_word_embeddings=False, transformers_version="4.36.0.dev0")

# Qwen/Qwen3-30B-A3B
QWEN3_MOE = config("Qwen3MoeForCausalLM", "qwen3_moe", SIZES, SHARED, attention_bias=False, decoder_sparse_step=1, head_dim=16,
                   hidden_act="silu", max_position_embeddings=40960, max_window_layers=48, mlp_only_layers=[], moe_intermediate_size=12,
                   norm_topk_prob=True, num_experts=5, num_experts_per_tok=2, output_router_logits=False, rms_norm_eps=1e-06,
                   rope_scaling=None, rope_theta=1000000.0, router_aux_loss_coef=0.001, sliding_window=None, tie_word_embeddings=False,
                   use_sliding_window=False, transformers_version="4.51.0")
QWEN3_MOE_RAW = QWEN3_MOE | dict(num_experts_per_tok=3, norm_topk_prob=False, num_key_value_heads=1, use_sliding_window=True,
                                 sliding_window=8)
ROUTER = {"mlp.gate.": 1.0}

CHECKPOINTS = {
    "mistral-window": Checkpoint(MISTRAL_7B),
    "mistral-nemo": Checkpoint(MISTRAL_NEMO, modern=True, shards="20KB"),
    "qwen2-tied": Checkpoint(QWEN2),
    "qwen2-yarn": Checkpoint(QWEN2_YARN),
    "qwen2-window": Checkpoint(QWEN2_WINDOW, modern=True),
    "qwen3-tied": Checkpoint(QWEN3),
    "qwen3-untied": Checkpoint(QWEN3_UNTIED, modern=True),
    "gemma-legacy": Checkpoint(GEMMA),
    "gemma-tanh": Checkpoint(GEMMA_TANH, modern=True),
    "gemma2": Checkpoint(GEMMA2),
    "gemma2-uncapped": Checkpoint(GEMMA2_NO_CAPS, modern=True),
    "gemma3-text": Checkpoint(GEMMA3),
    "gemma3-layers": Checkpoint(GEMMA3_270M),
    "gemma3-vision": Checkpoint(GEMMA3_VISION, published=renamed(
        (r"^model\.language_model\.", "language_model.model."), (r"^lm_head", "language_model.lm_head"),
        (r"^model\.vision_tower\.(vision_model\.)?", "vision_tower.vision_model."), (r"^model\.multi_modal", "multi_modal"))),
    "gemma3-vision-layers": Checkpoint(GEMMA3_VISION_LAYERS, modern=True, published=renamed(
        (r"^model\.vision_tower\.(vision_model\.)?", "model.vision_tower.vision_model."))),
    "phi3-window": Checkpoint(PHI3, modern=True),
    "phi3-long": Checkpoint(PHI3_LONG),
    "phi3-short": Checkpoint(PHI4_MINI),
    "olmo2": Checkpoint(OLMO2),
    "olmo2-grouped": Checkpoint(OLMO2_GROUPED, modern=True),
    "cohere": Checkpoint(COHERE, std=COHERE_STD),
    "cohere-norm": Checkpoint(COHERE_PLUS, modern=True),
    "cohere2": Checkpoint(COHERE2, std={"embed_tokens": 1.0}),
    "cohere2-layers": Checkpoint(COHERE2_LAYERS, modern=True),
    "smollm3": Checkpoint(SMOLLM3),
    "smollm3-window": Checkpoint(SMOLLM3_WINDOW, modern=True),
    "gpt-neox": Checkpoint(NEOX, unread="inv_freq", published=steps(
        renamed((r"^lm_head", "embed_out")), with_buffers("gpt_neox.layers.{}.attention", NEOX_BUFFERS))),
    "gpt-neox-sequential": Checkpoint(NEOX_SEQUENTIAL, modern=True),
    "phi": Checkpoint(PHI),
    "phi-norm": Checkpoint(PHI_NORM, modern=True),
    "bloom-bare": Checkpoint(BLOOM_560M, published=renamed((r"^transformer\.", ""))),
    "bloom": Checkpoint(BLOOM, modern=True),
    "opt": Checkpoint(OPT),
    "gpt2": Checkpoint(GPT2, dtype="float32", published=steps(
        renamed((r"^transformer\.", "")), with_buffers("h.{}.attn", dict(bias=tril(32))))),
    "gpt2-scaled": Checkpoint(GPT2_SCALED, modern=True),
    "mixtral": Checkpoint(MIXTRAL, std=ROUTER, published=steps(
        experts_apart("w1", "w3", "w2"), renamed((r"\.mlp\.", ".block_sparse_moe.")))),
    "qwen3-moe": Checkpoint(QWEN3_MOE, std=ROUTER, published=experts_apart("gate_proj", "up_proj", "down_proj")),
    "qwen3-moe-raw": Checkpoint(QWEN3_MOE_RAW, std=ROUTER, modern=True, published=experts_apart("gate_proj", "up_proj", "down_proj")),
}

# --------------------------------------------------------------------------------------------------------------------- the weights

DEVIATION = 0.3


def fill(model, deviations):
    """A fresh model has biases of 0 and norms of 1, which would hide a bias or a norm that is not applied."""
    for module in model.modules():
        norm = "Norm" in type(module).__name__
        # Gemma's norms multiply by 1 + weight.
        centre = 0.0 if "Gemma" in type(module).__name__ else 1.0
        for name, parameter in module.named_parameters(recurse=False):
            if name == "weight" and norm:
                parameter.normal_(centre, 0.2)
            else:
                parameter.normal_(0, DEVIATION)
    for name, parameter in model.named_parameters():
        for part, deviation in deviations.items():
            if part in name:
                parameter.normal_(0, deviation)


def checkpoint(folder, row, seed):
    """Writes config.json and the weights."""
    write_config(folder, row.config)
    torch.manual_seed(seed)
    settings = AutoConfig.from_pretrained(folder)
    model = AutoModelForCausalLM.from_config(settings, dtype=torch.float32, attn_implementation="eager")
    fill(model, row.std)
    dtype = getattr(torch, row.config.get("torch_dtype", row.dtype))
    weights = model.to(dtype).state_dict()
    if model.config.get_text_config().tie_word_embeddings:
        weights = {name: tensor for name, tensor in weights.items() if not name.endswith("lm_head.weight")}
    save_torch_state_dict(row.published(weights), folder, max_shard_size=row.shards)
    if row.modern:
        for settings in (model.config, *(getattr(model.config, name) for name in model.config.sub_configs)):
            settings.dtype = dtype
        model.config.save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)


def write_config(folder, fields):
    (folder / "config.json").write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")


# ------------------------------------------------------------------------------------------------------------------- the reference


def load(folder, row):
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager", output_loading_info=True)
    unread = [name for name in report["unexpected_keys"] if not re.search(row.unread, name)]
    problems = [*report["missing_keys"], *report["mismatched_keys"], *unread, *report.get("error_msgs", [])]
    assert not problems, f"{folder}: {problems}"
    return model.eval()


def decoder_layers(model):
    """The list of decoder layers: not that of a vision tower."""
    return next(module for name, module in model.named_modules()
                if isinstance(module, nn.ModuleList) and name.endswith(("layers", ".h")) and "vision" not in name)


def activation_module(layer):
    # OPT has its feed-forward network in the layer itself.
    block = getattr(layer, "mlp", layer)
    return next(getattr(block, name) for name in ("act_fn", "activation_fn", "act", "gelu_impl") if hasattr(block, name))


class Watch:
    """What the hooks saw in one forward pass."""

    def __init__(self, model):
        self.clear()
        for layer in decoder_layers(model):
            if hasattr(getattr(layer, "mlp", None), "experts"):
                layer.mlp.register_forward_hook(self.experts)
            else:
                activation_module(layer).register_forward_hook(self.dense)
        model.get_output_embeddings().register_forward_pre_hook(self.head)

    def clear(self):
        self.active, self.near_zero, self.routed, self.hidden = [], [], [], None
        self.gate_margin = self.router_margin = float("inf")

    def head(self, _module, inputs):
        self.hidden = inputs[0]

    def count(self, gate, activation):
        self.gate_margin = min(self.gate_margin, gate.abs().min().item())
        return (activation > 0).sum(0).int(), (gate.abs() < NEAR_ZERO).sum(0).int()

    def dense(self, _module, inputs, activation):
        width = activation.shape[-1]
        active, near_zero = self.count(inputs[0].reshape(-1, width), activation.reshape(-1, width))
        self.active.append(active)
        self.near_zero.append(near_zero)

    def experts(self, block, inputs, output):
        """transformers fuses the experts, so this computes the block again, one expert after the other."""
        x = inputs[0].reshape(-1, inputs[0].shape[-1])
        logits, weights, chosen = block.gate(x)
        order = logits.sort(-1, descending=True).values
        k = chosen.shape[-1]
        self.router_margin = min(self.router_margin, (order[:, k - 1] - order[:, k]).min().item())
        again, counts, routed = torch.zeros_like(x), [], []
        for expert in range(logits.shape[-1]):
            tokens, place = torch.where(chosen == expert)
            gate, up = linear(x[tokens], block.experts.gate_up_proj[expert]).chunk(2, dim=-1)
            activation = block.experts.act_fn(gate)
            again[tokens] += weights[tokens, place, None] * linear(activation * up, block.experts.down_proj[expert])
            counts.append(self.count(gate, activation))
            routed.append(len(tokens))
        torch.testing.assert_close(again, output.reshape(again.shape), rtol=1e-5, atol=1e-5)
        active, near_zero = zip(*counts)
        self.active.append(torch.cat(active))
        self.near_zero.append(torch.cat(near_zero))
        self.routed.append(torch.tensor(routed, dtype=torch.int32))


def reference(folder, row, seed):
    model = load(folder, row)
    watch = Watch(model)
    generator = torch.Generator().manual_seed(seed)
    for draw in itertools.count(1):
        watch.clear()
        ids = torch.randint(0, model.config.get_text_config().vocab_size, (2, LENGTH), generator=generator)
        logits = model(ids, use_cache=False).logits
        if watch.gate_margin > GATE_MARGIN and watch.router_margin > ROUTER_MARGIN:
            break
    tensors = dict(
        input_ids=ids,
        logits=logits,
        last_hidden=watch.hidden,
        gate_active=torch.stack(watch.active),
        gate_near_zero=torch.stack(watch.near_zero),
        nll=mean_nll(logits, ids),
    )
    if watch.routed:
        tensors["routed"] = torch.stack(watch.routed)
    save(tensors, folder / "reference.safetensors")
    rms = logits.square().mean().sqrt()
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{folder.name}\t{size / 1000:.1f} kB\tlogits rms {rms:.2f}, largest {logits.abs().max():.2f}\tnll {tensors['nll'].mean():.3f}"
          f"\tsmallest gate {watch.gate_margin:.1e}, router margin {watch.router_margin:.1e}, draw {draw}", flush=True)


def main(out, names):
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    for name in names or CHECKPOINTS:
        row, seed, folder = CHECKPOINTS[name], zlib.crc32(name.encode()), out / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        checkpoint(folder, row, seed)
        reference(folder, row, seed)


if __name__ == "__main__":
    if len(sys.argv) < 2 or not set(sys.argv[2:]) <= set(CHECKPOINTS):
        sys.exit(f"usage: tiny_families.py OUT_DIR [NAME...]; names: {' '.join(CHECKPOINTS)}")
    main(Path(sys.argv[1]), sys.argv[2:])
