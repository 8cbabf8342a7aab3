#!/usr/bin/env python3
"""Writes masks as published LAPE code does, by `torch.save`, in every layout that this torch can write; tests/suite/import.rs reads them.

usage: published_masks.py OUT

The files hold three languages of two layers of 48 neurons (the tiny model of the tests): lists[language][layer], one of them
empty, one language without any neuron, as `torch.where` and `nonzero` give them. They are named by torch's version; run it with
old versions as well, for each wrote other members into the archive (1.6: no `byteorder`; 2.1: `byteorder`; 2.2: `.data/serialization_id`;
2.6: `.format_version` and `.storage_alignment`).
"""
import pathlib
import sys

import torch

# What tests/suite/import.rs wants of every file.
LISTS = [
    [[0, 3, 17, 47], [5]],
    [[], []],
    [[1, 3, 40], [0, 5, 6, 7, 46]],
]


def tensors(dtype=torch.int64):
    return [[torch.tensor(layer, dtype=dtype) for layer in language] for language in LISTS]


def views():
    """Parts of shared storages: a slice of a longer one, and a column of what `nonzero` gives, with a stride."""
    rows = torch.zeros(2, 48, dtype=torch.bool)
    for layer, indices in enumerate(LISTS[2]):
        rows[layer, indices] = True
    pairs = rows.nonzero()
    columns = [pairs[pairs[:, 0] == layer].contiguous()[:, 1] for layer in range(2)]
    joined = torch.tensor(LISTS[0][0] + LISTS[0][1])
    slices = [joined[:4], joined[4:]]
    return [slices, [joined[:0], joined[:0]], columns]


def main():
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    version = torch.__version__.split("+")[0]
    new = {"_use_new_zipfile_serialization": True}
    torch.save(tensors(), out / f"torch-{version}.pth", **new)
    torch.save(views(), out / f"torch-{version}-views.pth", **new)
    if "--old" in sys.argv:
        return
    torch.save(tensors(torch.int32), out / f"torch-{version}-int32.pth")
    torch.save(tensors(), out / f"torch-{version}-protocol-4.pth", pickle_protocol=4)
    # What `import` refuses by name: the format before the archive, and other things in one.
    torch.save(tensors(), out / "refused-legacy.pth", _use_new_zipfile_serialization=False)
    torch.save({"mlt": tensors()[0]}, out / "refused-dictionary.pth")
    torch.save([[torch.ones(48, dtype=torch.bool)] * 2] * 3, out / "refused-bool.pth")
    torch.save([[torch.tensor([[1], [2]])] * 2] * 3, out / "refused-columns.pth")
    torch.save([[torch.tensor([2, 1])] * 2] * 3, out / "refused-unsorted.pth")
    try:
        from torch.utils.serialization import config

        for alignment in (8, 512):
            config.save.storage_alignment = alignment
            torch.save(tensors(), out / f"torch-{version}-alignment-{alignment}.pth")
    except (ImportError, AttributeError) as error:
        print(f"no other alignment: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
