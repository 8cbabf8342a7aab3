#!/usr/bin/env python3
"""Tiny GGUF files made from the tiny checkpoints as llama.cpp's converter makes them, and what other programs read in them.

usage: tiny_gguf.py FIXTURES_DIR SENTENCES_DIR OUT_DIR      FIXTURES_DIR has tiny-llama and families

  scaled.gguf, biased.gguf, half.gguf    the checkpoints of tiny_llama.py in F32, BF16 and F16: q and k in llama.cpp's row order,
                                         Llama 3's scaling as rope_freqs.weight, the character tokenizer in byte-level spelling
  gemma-tanh.gguf, gemma2.gguf, gemma3-text.gguf, mistral-nemo.gguf, qwen2-tied.gguf, qwen3-tied.gguf
                                         checkpoints of tiny_families.py in BF16; what their query_pre_attn_scalar is, GGUF cannot say
  scaled-q8_0.gguf                       in Q8_0 where rows are whole blocks; scaled-q8_0.safetensors has transformers' logits for the
                                         dequantised weights (input_ids as in scaled/reference.safetensors)
  gemma3.gguf                            a tiny random Gemma 3 with norms stored as w + 1; gemma3.safetensors has its tensors and
                                         transformers' logits for input_ids, gemma3.json the config that transformers ran
  formats.gguf, formats.safetensors      random blocks of every format, and the gguf package's dequantize of them
  bpe-PRE.gguf, spm.gguf, spm-gemma.gguf vocabularies alone; tokens.json has texts and the ids that `tokenizers` gives with the
                                         models' own pre-tokenizers, and sentencepiece with the model that the file was made of
"""
import io
import json
import sys
from pathlib import Path

import gguf
import numpy as np
import sentencepiece
import torch
from gguf import GGMLQuantizationType as Format
from safetensors.torch import load_file
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig

from demo_logits import save

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

LAYER = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
}
NORMS = {"post_attention_layernorm": "ffn_norm"}
SANDWICH_NORMS = {"post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
                  "post_feedforward_layernorm": "post_ffw_norm"}
OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def renamed(name, architecture):
    stem, part = name.rsplit(".", 1)
    if stem in OUTER:
        return f"{OUTER[stem]}.{part}"
    _, _, layer, stem = stem.split(".", 3)
    norms = SANDWICH_NORMS if architecture in ["gemma2", "gemma3"] else NORMS
    return f"blk.{layer}.{(LAYER | norms)[stem]}.{part}"


def permute(weight, heads):
    """llama.cpp's LlamaModel.permute."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def byte_letters():
    """The letters that byte-level tokenizers write bytes in."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return {byte: chr(byte if byte in plain else 256 + sum(b not in plain for b in range(byte))) for byte in range(256)}


def add_tokenizer(writer, model, tokens, types, pre="default", **more):
    writer.add_tokenizer_model(model)
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    if "merges" in more:
        writer.add_token_merges(more["merges"])
    if "scores" in more:
        writer.add_token_scores(more["scores"])


def add_shape(writer, config):
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llama3_divisors(rope, width):
    """llama.cpp's LlamaModel.generate_extra_tensors, in its words."""
    freqs = 1.0 / (rope["rope_theta"] ** (torch.arange(0, width, 2, dtype=torch.float32) / width))
    low_wavelen = rope["original_max_position_embeddings"] / rope["low_freq_factor"]
    high_wavelen = rope["original_max_position_embeddings"] / rope["high_freq_factor"]
    factors = []
    for freq in freqs:
        wavelen = 2 * np.pi / freq
        if wavelen < high_wavelen:
            factors.append(1)
        elif wavelen > low_wavelen:
            factors.append(rope["factor"])
        else:
            smooth = (rope["original_max_position_embeddings"] / wavelen - rope["low_freq_factor"]) / (rope["high_freq_factor"] - rope["low_freq_factor"])
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(factors, dtype=np.float32)


def converted(source, architecture, out, form):
    config = json.loads((source / "config.json").read_text())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    width = config.get("head_dim") or config["hidden_size"] // heads
    writer = gguf.GGUFWriter(out, architecture)
    writer.add_name(out.stem)
    add_shape(writer, config)
    if architecture == "llama":
        writer.add_rope_dimension_count(width)
        writer.add_vocab_size(config["vocab_size"])
    if width * heads != config["hidden_size"]:
        writer.add_key_length(width)
        writer.add_value_length(width)
    rope = config.get("rope_parameters") or {"rope_theta": config["rope_theta"], **(config.get("rope_scaling") or {})}
    writer.add_rope_freq_base(rope["rope_theta"])
    if "linear" in [rope.get("type"), rope.get("rope_type")]:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if rope.get("rope_type") == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_divisors(rope, width))
    if architecture == "gemma2":
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    if architecture in ["gemma2", "gemma3"]:
        writer.add_sliding_window(config["sliding_window"])
    if "sliding_window_pattern" in config:
        writer.add_sliding_window_pattern(config["sliding_window_pattern"])
    letters = byte_letters()
    tokens = json.loads((source.parent.parent / "tiny-llama" / "scaled" / "tokenizer.json").read_text())["model"]["vocab"]
    spelled = [token if len(token) > 1 else letters[ord(token)] for token in tokens]
    add_tokenizer(writer, "gpt2", spelled, [CONTROL if len(token) > 1 else NORMAL for token in tokens], "gpt-2", merges=[])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(1)
    tensors = {}
    for file in sorted(source.glob("model*.safetensors")):
        tensors.update(load_file(file))
    dequantised = {}
    for name, tensor in tensors.items():
        weight = tensor.float().numpy()
        own = Format.F32 if weight.ndim == 1 or weight.shape[-1] % (32 if form == Format.Q8_0 else 1) else form
        raw = gguf.quantize(weight, own)
        dequantised[name] = torch.from_numpy(gguf.dequantize(raw, own).copy())
        if architecture == "llama" and (".q_proj." in name or ".k_proj." in name):
            raw = permute(raw, heads if ".q_proj." in name else kv_heads)
        if architecture.startswith("gemma") and name.endswith("norm.weight"):
            raw = raw + np.float32(1)
        writer.add_tensor(renamed(name, architecture), raw, raw_dtype=own)
    finish(writer)
    return config, dequantised


def q8_0(source, out):
    config, dequantised = converted(source, "llama", out / "scaled-q8_0.gguf", Format.Q8_0)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, attn_implementation="eager").eval()
    model.load_state_dict(dequantised)
    ids = load_file(source / "reference.safetensors")["input_ids"]
    save({"logits": model(ids, use_cache=False).logits}, out / "scaled-q8_0.safetensors")


def gemma3(out):
    torch.manual_seed(4)
    config = Gemma3TextConfig(
        vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=7, num_attention_heads=2, num_key_value_heads=1, head_dim=16,
        max_position_embeddings=128, sliding_window=8, query_pre_attn_scalar=16, initializer_range=0.3, bos_token_id=0, eos_token_id=1,
        pad_token_id=2)
    model = Gemma3ForCausalLM(config).eval()
    model.set_attn_implementation("eager")
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.normal_(0, 0.2)
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    writer = gguf.GGUFWriter(out / "gemma3.gguf", "gemma3")
    add_shape(writer, config.to_dict())
    writer.add_key_length(16)
    writer.add_value_length(16)
    writer.add_rope_freq_base(1_000_000.0)
    writer.add_sliding_window(8)
    letters = "".join(chr(c) for c in range(33, 127))
    tokens = ["<bos>", "<eos>", "<pad>", "<unk>", "▁", *letters[:59]]
    types = [CONTROL, CONTROL, CONTROL, CONTROL, *[NORMAL] * 60]
    add_tokenizer(writer, "llama", tokens, types, scores=[0.0] * 4 + [-float(i) for i in range(60)])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(3)
    writer.add_pad_token_id(2)
    writer.add_add_space_prefix(False)
    for name, tensor in tensors.items():
        weight = tensor.numpy()
        writer.add_tensor(renamed(name, "gemma3"), weight + 1 if name.endswith("norm.weight") else weight)
    finish(writer)
    ids = torch.randint(4, 64, (2, 40), generator=torch.Generator().manual_seed(4))
    save({"input_ids": ids, "logits": model(ids, use_cache=False).logits, **tensors}, out / "gemma3.safetensors")
    (out / "gemma3.json").write_text(json.dumps(config.to_dict(), indent=1, sort_keys=True) + "\n")


def formats(out):
    """Random bytes are blocks of every format once their scales, the f16s at known places, are finite and of a usual size."""
    random = np.random.default_rng(5)
    scales = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2],
              "Q5_K": [0, 2], "Q6_K": [208]}
    writer = gguf.GGUFWriter(out / "formats.gguf", "llama")
    add_shape(writer, dict(max_position_embeddings=8, hidden_size=64, num_hidden_layers=13, intermediate_size=64, num_attention_heads=4,
                           num_key_value_heads=4, rms_norm_eps=1e-5))
    values = {}
    for layer, name in enumerate(["F32", "F16", "BF16", *scales]):
        form = Format[name]
        block, size = gguf.GGML_QUANT_SIZES[form]
        if name in scales:
            raw = random.integers(0, 256, (2, 512 // block, size), dtype=np.uint8)
            for place in scales[name]:
                raw[..., place:place + 2] = random.normal(0, 0.1, (2, 512 // block, 1)).astype(np.float16).view(np.uint8)
            raw = raw.reshape(2, -1)
        else:
            raw = gguf.quantize(random.normal(0, 1, (2, 512)).astype(np.float32), form)
        writer.add_tensor(f"blk.{layer}.ffn_up.weight", raw, raw_dtype=form)
        values[f"model.layers.{layer}.mlp.up_proj.weight"] = torch.from_numpy(gguf.dequantize(raw, form).astype(np.float32).copy())
    finish(writer)
    save(values, out / "formats.safetensors")


# Patterns as the models' tokenizer.json have them.
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
          r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def cut(pre):
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre in ["gpt-2", "smollm"])
    steps = {"gpt-2": [], "smollm": [pre_tokenizers.Digits(individual_digits=True)]}.get(pre)
    if steps is None:
        pattern = {"llama-bpe": LLAMA3, "qwen2": QWEN2, "tekken": TEKKEN}[pre]
        steps = [pre_tokenizers.Split(Regex(pattern), "isolated")]
    return pre_tokenizers.Sequence([*steps, byte_level])


def bpe(pre, sentences, texts, out):
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = cut(pre)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(sentences, trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, special_tokens=["<|end|>"], show_progress=False))
    model = json.loads(made.to_str())["model"]
    # Llama 3 and Mistral's Tekken are tiktoken's: a word that is a token is that token.
    model = models.BPE(vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]], ignore_merges=pre in ["llama-bpe", "tekken"])
    tokens = [token for token, _ in sorted(made.get_vocab().items(), key=lambda item: item[1])]
    made = Tokenizer(model)
    made.pre_tokenizer = cut(pre)
    if pre == "qwen2":
        made.normalizer = normalizers.NFC()
    made.add_special_tokens([AddedToken("<|end|>", normalized=False)])
    made.add_tokens([AddedToken("<think>", normalized=False)])
    merges = [" ".join(pair) for pair in json.loads(made.to_str())["model"]["merges"]]
    writer = gguf.GGUFWriter(out / f"bpe-{pre}.gguf", "llama")
    add_shape(writer, VOCABULARY_ONLY)
    types = [CONTROL] + [NORMAL] * (len(tokens) - 1)
    add_tokenizer(writer, "gpt2", [*tokens, "<think>", "[PAD701]"], [*types, USER_DEFINED, UNUSED], pre, merges=merges)
    finish(writer)
    return [made.encode(text, add_special_tokens=False).ids for text in texts]


VOCABULARY_ONLY = dict(max_position_embeddings=8, hidden_size=8, num_hidden_layers=1, intermediate_size=8, num_attention_heads=1,
                       num_key_value_heads=1, rms_norm_eps=1e-5)


def spm(name, architecture, prefix, symbols, sentences, texts, out):
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_writer=trained, model_type="bpe", vocab_size=1500, byte_fallback=True, character_coverage=0.98,
        normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=prefix, user_defined_symbols=symbols,
        allow_whitespace_only_pieces=True, num_threads=1, minloglevel=2)
    model = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue())
    writer = gguf.GGUFWriter(out / f"{name}.gguf", architecture)
    add_shape(writer, VOCABULARY_ONLY)
    if architecture == "gemma3":
        writer.add_sliding_window(8)
    pieces = [model.id_to_piece(i) for i in range(len(model))]
    tokens = [piece.replace("▁", " ") if piece in symbols else piece for piece in pieces]

    def kind(i):
        kinds = [(model.is_unknown(i), UNKNOWN), (model.is_control(i), CONTROL), (model.is_byte(i), BYTE), (pieces[i] in symbols, USER_DEFINED)]
        return next((kind for is_one, kind in kinds if is_one), NORMAL)

    add_tokenizer(writer, "llama", tokens, [kind(i) for i in range(len(model))], scores=[model.get_score(i) for i in range(len(model))])
    writer.add_unk_token_id(0)
    writer.add_add_space_prefix(prefix)
    finish(writer)
    return [model.encode(text) for text in texts]


LANGUAGES = ("amh_Ethi arb_Arab ben_Beng bod_Tibt deu_Latn div_Thaa ell_Grek fra_Latn hau_Latn heb_Hebr hin_Deva hye_Armn jpn_Jpan kat_Geor "
             "khm_Khmr kor_Hang mlt_Latn mya_Mymr rus_Cyrl tam_Taml tha_Thai tur_Latn vie_Latn yor_Latn zho_Hans").split()
HARD = ["", " ", "  two  spaces", "a\n\nb\r\n\r\nc\t\td ", "I'll, you'LL and they've 1234567 x 12 34", "½ ² ٣٤٥ १२३", "e\u0301 é ẹ̀ Å \u212b",
        "👩‍👩‍👧 🏳️‍🌈 🇲🇹", "<think>no</think> <|end|> end", "a" * 40, "ICH weiß: HTML/XML\n//x\n\n\n   y", "\u200bzero\u00a0width\u3000wide", "\n", "\n\n\n",
        "hello    world   !"]


def tokens(sentences_dir, out):
    texts = list(HARD)
    training, few_letters = [], []
    for language in LANGUAGES:
        lines = [line for line in (sentences_dir / f"{language}.txt").read_text().splitlines() if line.strip()]
        texts.append(lines[0])
        training += lines
        # Chinese characters, kana and syllables of Hangul stay out of these vocabularies: they fall back to their bytes.
        if not language.endswith(("Hans", "Jpan", "Hang")):
            few_letters += lines
    ids = {f"bpe-{pre}": bpe(pre, training, texts, out) for pre in ["gpt-2", "smollm", "llama-bpe", "qwen2", "tekken"]}
    # Before a user-defined token at the beginning of a text sentencepiece puts its `▁` for itself, Hugging Face's form of it does not.
    ids["spm"] = spm("spm", "llama", True, [], few_letters, texts, out)
    ids["spm-gemma"] = spm("spm-gemma", "gemma3", False, ["\n", "\n\n", "\n\n\n", "▁▁", "▁▁▁", "▁▁▁▁", "<think>"], few_letters, texts, out)
    (out / "tokens.json").write_text(json.dumps({"texts": texts, "ids": ids}, ensure_ascii=False, separators=(",", ":")) + "\n")


FAMILIES = {"gemma-tanh": "gemma", "gemma2": "gemma2", "gemma3-text": "gemma3", "mistral-nemo": "llama", "qwen2-tied": "qwen2", "qwen3-tied": "qwen3"}


def main(fixtures, sentences, out):
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    for name, form in [("scaled", Format.F32), ("biased", Format.BF16), ("half", Format.F16)]:
        converted(fixtures / "tiny-llama" / name, "llama", out / f"{name}.gguf", form)
    q8_0(fixtures / "tiny-llama" / "scaled", out)
    for name, architecture in FAMILIES.items():
        converted(fixtures / "families" / name, architecture, out / f"{name}.gguf", Format.BF16)
    gemma3(out)
    formats(out)
    tokens(sentences, out)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: tiny_gguf.py FIXTURES_DIR SENTENCES_DIR OUT_DIR")
    main(*map(Path, sys.argv[1:]))
