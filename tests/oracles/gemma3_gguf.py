#!/usr/bin/env python3
"""What sentencepiece and transformers make of the Gemma 3 270M that get_gemma3.sh fetches: ids of sentences.

usage: gemma3_gguf.py GGUF_FILE TEXT_DIR OUT.json

TEXT_DIR has one text file per language (atlas/demo/sentences); every line of it is one text. OUT.json has, per language, the
number of ids and the SHA-256 of all of them as little-endian u32. The ids are sentencepiece's, with a model of the file's tokens,
scores and types; transformers' are compared to them, and what differs is printed.
What a forward pass gives is gemma3.py's.
"""
import hashlib
import json
import struct
import sys
from pathlib import Path

import numpy as np
import sentencepiece
from gguf import GGUFReader
from transformers import AutoTokenizer

USER_DEFINED = 4


def field(number, wire, payload):
    """One field of a protocol buffer."""
    def varint(n):
        out = b""
        while n >= 128:
            out, n = out + bytes([n % 128 + 128]), n // 128
        return out + bytes([n])
    return varint(number * 8 + wire) + {0: lambda: varint(payload), 2: lambda: varint(len(payload)) + payload, 5: lambda: struct.pack("<f", payload)}[wire]()


def processor(fields):
    """A sentencepiece model of the file's vocabulary: BPE with byte fallback, spaces as they are, no normalisation."""
    tokens, scores, types = (fields[f"tokenizer.ggml.{key}"].contents() for key in ["tokens", "scores", "token_type"])
    model = b""
    for token, score, kind in zip(tokens, scores, types):
        token = token.replace(" ", "▁") if kind == USER_DEFINED else token
        kind = 2 if token == "<unk>" else kind
        model += field(1, 2, field(1, 2, token.encode()) + field(2, 5, score) + field(3, 0, kind))
    trainer = field(3, 0, 2) + field(35, 0, 1) + field(40, 0, 3) + field(41, 0, 2) + field(42, 0, 1) + field(43, 0, 0)
    normalizer = field(1, 2, b"identity") + field(3, 0, 0) + field(4, 0, 0) + field(5, 0, 1)
    made = sentencepiece.SentencePieceProcessor()
    made.LoadFromSerializedProto(model + field(2, 2, trainer) + field(3, 2, normalizer))
    return made


def main(file, texts, out):
    spm = processor(GGUFReader(file).fields)
    theirs = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    ids, differ, count = {}, 0, 0
    for path in sorted(texts.glob("*.txt")):
        hashed, n = hashlib.sha256(), 0
        for line in path.read_text().splitlines():
            own = spm.encode(line)
            other = theirs.encode(line, add_special_tokens=False)
            differ, count = differ + (own != other), count + 1
            if own != other and differ < 20:
                print(path.stem, repr(line), own, other, sep="\n  ")
            hashed.update(np.array(own, dtype="<u4").tobytes())
            n += len(own)
        ids[path.stem] = dict(ids=n, sha256=hashed.hexdigest())
    print(f"{count} texts, {sum(row['ids'] for row in ids.values())} ids, {differ} texts differ between transformers and sentencepiece")
    if out is None:
        return
    out.write_text(json.dumps(dict(tokens=ids), separators=(",", ":")) + "\n")


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit("usage: gemma3_gguf.py GGUF_FILE TEXT_DIR [OUT.json]")
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) == 4 else None)
