#!/usr/bin/env python3
"""Reads a release folder as strangers would: datasets, pandas, polars, DuckDB, pyarrow and safetensors, none of our code.

usage: read_atlas.py ATLAS_DIR [--pth FILE.pth …]

Prints one line per check; exit code 1 and a message for every check that failed. Works without a network. The .pth files
(list[language][layer] of int64 tensors) are checked where torch is installed.
"""
import argparse
import fnmatch
import hashlib
import importlib.util
import json
import os
import sys
import tempfile
from pathlib import Path

# datasets reads these when it is imported.
scratch = tempfile.TemporaryDirectory(prefix="read-atlas-")
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_HOME=scratch.name, HF_DATASETS_DISABLE_PROGRESS_BARS="1")

import datasets
import duckdb
import numpy as np
import pandas
import polars
import pyarrow
import pyarrow.parquet
import yaml
from safetensors import safe_open

NEURON = ["language", "layer", "expert", "neuron"]


class Mismatch(Exception):
    pass


def require(condition, message):
    if not condition:
        raise Mismatch(message)


class Report:
    def __init__(self):
        self.failures = 0

    def check(self, name, check, *arguments):
        """Runs one check: what it returns goes on its line, what it raises is the failure."""
        try:
            print(f"ok    {name}: {check(*arguments)}", flush=True)
        except Exception as error:  # A reader that cannot open the file raises an error of its own.
            self.failures += 1
            print(f"FAIL  {name}: {type(error).__name__}: {error}", flush=True)


class Atlas:
    def __init__(self, folder):
        self.folder = folder
        self.manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        self.files = {entry["path"]: entry for entry in self.manifest["files"]}
        _, front, _ = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
        self.card = yaml.safe_load(front)
        self.configs = {config["config_name"]: config for config in self.card["configs"]}

    def tables(self):
        return sorted(path for path in self.files if path.endswith(".parquet"))

    def masks(self):
        return sorted(path for path in self.files if path.startswith("masks/") and path.endswith(".safetensors"))

    def tables_of(self, config):
        return [path for path in self.tables() if any(matches(path, pattern) for pattern in patterns(self.configs[config]))]


def patterns(config):
    """`data_files` is a pattern, a list of them, or a list of {split, path}."""
    data_files = config["data_files"]
    for item in [data_files] if isinstance(data_files, str) else data_files:
        paths = item if isinstance(item, str) else item["path"]
        yield from [paths] if isinstance(paths, str) else paths


def matches(path, pattern):
    """As in a shell: `*` stays inside one folder, `**` crosses folders."""
    def match(parts, wanted):
        if not wanted:
            return not parts
        if wanted[0] == "**":
            return match(parts, wanted[1:]) or (bool(parts) and match(parts[1:], wanted))
        return bool(parts) and fnmatch.fnmatchcase(parts[0], wanted[0]) and match(parts[1:], wanted[1:])
    return match(path.split("/"), pattern.split("/"))


def manifest_is_complete(atlas):
    there = {file.relative_to(atlas.folder).as_posix() for file in atlas.folder.rglob("*") if file.is_file()} - {"manifest.json"}
    # A clone from a Hub brings files of git's own.
    there = {path for path in there if not path.startswith(".")}
    listed = set(atlas.files)
    require(there == listed, f"not listed: {sorted(there - listed)}; listed but missing: {sorted(listed - there)}")
    return f"{len(listed)} files"


def digest(atlas, path):
    content = (atlas.folder / path).read_bytes()
    entry = atlas.files[path]
    require(len(content) == entry["bytes"], f"{len(content)} bytes, but the manifest says {entry['bytes']}")
    found = hashlib.sha256(content).hexdigest()
    require(found == entry["sha256"], f"sha256 {found}, but the manifest says {entry['sha256']}")
    return f"{len(content)} bytes, sha256 {found[:12]}…"


def card(atlas):
    languages = atlas.card["language"]
    wrong = [code for code in languages if not isinstance(code, str)]
    require(not wrong, f"language codes must be quoted, YAML reads these as something else: {wrong}")
    defaults = [name for name, config in atlas.configs.items() if config.get("default")]
    require(len(defaults) == 1, f"one config must be the default, found {defaults}")
    # A table without rows is nobody's config: datasets refuses to load one.
    filled = {path for path in atlas.tables() if atlas.files[path]["rows"]}
    homeless = filled - {path for name in atlas.configs for path in atlas.tables_of(name)}
    require(not homeless, f"no config reads {sorted(homeless)}")
    return f"{len(languages)} languages, configs {', '.join(atlas.configs)}, default {defaults[0]}"


def config_with_datasets(atlas, name):
    loaded = datasets.load_dataset(str(atlas.folder), name, cache_dir=f"{scratch.name}/datasets")
    paths = atlas.tables_of(name)
    require(paths, f"no Parquet file matches {list(patterns(atlas.configs[name]))}")
    rows, expected = sum(split.num_rows for split in loaded.values()), sum(atlas.files[path]["rows"] for path in paths)
    require(rows == expected, f"{rows} rows, but the manifest says {expected}")
    columns = pyarrow.parquet.read_schema(atlas.folder / paths[0]).names
    for split, table in loaded.items():
        require(table.column_names == columns, f"split {split} has the columns {table.column_names}, but the file has {columns}")
        require(table.num_rows == 0 or list(table[0]) == columns, f"split {split}: the first row lacks columns")
    return f"{rows} rows, {len(columns)} columns, splits {', '.join(loaded)}"


def default_with_datasets(atlas):
    loaded = datasets.load_dataset(str(atlas.folder), cache_dir=f"{scratch.name}/datasets")
    (default,) = [name for name, config in atlas.configs.items() if config.get("default")]
    used = {split.info.config_name for split in loaded.values()}
    require(used == {default}, f"without a name datasets reads {used}, but the default is {default}")
    return default


def read_with_all(file):
    """(rows, column names) by each reader."""
    # The arguments keep pyarrow and pandas from adding columns for folders named like `key=value`.
    table = pyarrow.parquet.ParquetFile(file).read()
    yield "pyarrow", table.num_rows, table.column_names
    frame = pandas.read_parquet(file)
    yield "pandas", len(frame), list(frame.columns)
    frame = polars.read_parquet(file)
    yield "polars", frame.height, frame.columns
    relation = duckdb.connect().read_parquet(str(file))
    yield "duckdb", relation.to_arrow_table().num_rows, relation.columns


def table_with_all(atlas, path):
    rows = atlas.files[path]["rows"]
    columns = pyarrow.parquet.read_schema(atlas.folder / path).names
    for reader, found_rows, found_columns in read_with_all(atlas.folder / path):
        require(found_rows == rows, f"{reader} reads {found_rows} rows, but the manifest says {rows}")
        require(found_columns == columns, f"{reader} reads the columns {found_columns}, but the file has {columns}")
    return f"{rows} rows, {len(columns)} columns"


def table_format(atlas, path):
    """What the format promises about every Parquet file."""
    file = pyarrow.parquet.ParquetFile(atlas.folder / path)
    metadata = file.schema_arrow.metadata or {}
    for key in ("neuroglot.schema", "neuroglot.schema_version"):
        require(key.encode() in metadata, f"the key-value metadata lacks {key}")
    for field in file.schema_arrow:
        kind = field.type.value_type if pyarrow.types.is_dictionary(field.type) else field.type
        require(not pyarrow.types.is_unsigned_integer(kind), f"{field.name} is {kind}; Spark and Java read signed integers only")
    for group in range(file.metadata.num_row_groups):
        for index in range(file.metadata.num_columns):
            chunk = file.metadata.row_group(group).column(index)
            require(chunk.compression == "ZSTD", f"{chunk.path_in_schema} is compressed with {chunk.compression}, not ZSTD")
            require(chunk.has_offset_index and chunk.has_column_index, f"{chunk.path_in_schema} has no page index")
    schema, version = (metadata[key].decode() for key in (b"neuroglot.schema", b"neuroglot.schema_version"))
    return f"{schema} {version}, {file.metadata.num_row_groups} row groups"


def neurons_of(atlas, path):
    """The table's keys; a table of version 1.0 knows no experts, and its neurons are those of the only one."""
    frame = polars.read_parquet(atlas.folder / path)
    if "expert" not in frame.columns:
        frame = frame.with_columns(polars.lit(0, dtype=polars.Int16).alias("expert"))
    return frame.select("model", "rank", *NEURON).with_columns(polars.col("language", "model").cast(polars.String))


def neurons_are_sorted(atlas, path):
    found = neurons_of(atlas, path).select(NEURON)
    require(found.equals(found.sort(NEURON)), "rows are not sorted by (language, layer, expert, neuron)")
    require(not found.is_duplicated().any(), "a neuron stands twice under one language")
    return f"{found['language'].n_unique()} languages"


def mask_with_table(atlas, path):
    """Every bit of the mask is a row of the table, and every row a bit."""
    with safe_open(atlas.folder / path, "numpy") as file:
        metadata = file.metadata() or {}
    # lape.safetensors and, at a smaller rate, lape-0.01.safetensors are both cut from lape.parquet.
    table_path = f"data/neurons/{path.split('/')[1]}/{metadata.get('method')}.parquet"
    require(table_path in atlas.files, f"there is no table {table_path}")
    # Imported masks have no ranks, and one cut.
    frame = neurons_of(atlas, table_path).filter(polars.col("rank").is_null() | (polars.col("rank") < int(metadata["neurons_asked"])))
    layers, experts, width = shape_of_model(atlas, path, frame["model"].unique().to_list())
    require(int(metadata["width"]) == width and int(metadata.get("experts", 1)) == experts, f"the metadata is of another model: {metadata}")
    in_table = {}
    for language, layer, expert, neuron in frame.select(NEURON).iter_rows():
        require(expert < experts and neuron < width, f"{language}: expert {expert} neuron {neuron} lies outside the model")
        in_table.setdefault(language, set()).add((layer, expert * width + neuron))
    with safe_open(atlas.folder / path, "numpy") as file:
        metadata, languages = file.metadata() or {}, sorted(file.keys())
        require(atlas.files[table_path]["sha256"] in metadata.values(), f"no metadata value is the sha256 of {table_path}")
        known = {str(code) for code in polars.read_parquet(atlas.folder / "data/languages.parquet")["code"]}
        require(set(languages) <= known, f"not in data/languages.parquet: {sorted(set(languages) - known)}")
        require(set(in_table) <= set(languages), f"in the table without a mask: {sorted(set(in_table) - set(languages))}")
        for language in languages:
            mask = file.get_tensor(language)
            wanted = (layers, -(-experts * width // 8))
            require(mask.dtype == np.uint8 and mask.shape == wanted, f"{language} is {mask.dtype} {mask.shape}, but it must be uint8 {wanted}")
            bits = {(int(layer), int(neuron)) for layer, neuron in np.argwhere(np.unpackbits(mask, axis=1, bitorder="little"))}
            rows = in_table.get(language, set())
            require(bits == rows, f"{language}: {len(bits - rows)} neurons only in the mask {sorted(bits - rows)[:3]}, "
                                  f"{len(rows - bits)} only in the table {sorted(rows - bits)[:3]}")
    return f"{len(languages)} languages, {sum(map(len, in_table.values()))} neurons"


def probabilities(atlas, path):
    """A neuron's probability is its count over the tokens that its expert got, or over all where there are no experts."""
    model = path.split("/")[2]
    neurons = polars.read_parquet(atlas.folder / path)
    if "import" in polars.read_parquet(atlas.folder / "data/runs.parquet").filter(polars.col("run").is_in(neurons["run"].unique().to_list()))["kind"].to_list():
        open_columns = ("rank", "entropy", "probability", "share", "mean_activation", "margin", "selection_freq")
        made_up = [name for name in open_columns if neurons[name].null_count() != neurons.height]
        require(not made_up, f"imported masks do not say {made_up}")
        return "none, for the masks were imported"
    counts = polars.read_parquet(atlas.folder / f"data/counts/{model}/*.parquet")
    keys, folds = [key for key in NEURON if key in counts.columns], sorted(name for name in counts.columns if name.startswith("active_"))
    counts = counts.with_columns(polars.sum_horizontal(polars.col(folds).cast(polars.Int64)).alias("active"))
    if any(file.startswith(f"data/routed/{model}/") for file in atlas.files):
        routed = polars.read_parquet(atlas.folder / f"data/routed/{model}/*.parquet")
        seen = polars.sum_horizontal(polars.col([fold.replace("active", "routed") for fold in folds]).cast(polars.Int64))
        counts = counts.join(routed.with_columns(seen.alias("seen")), on=["run", "language", "layer", "expert"], how="left")
    else:
        coverage = polars.read_parquet(atlas.folder / "data/coverage.parquet").select("run", "language", seen=polars.col("tokens"))
        counts = counts.join(coverage, on=["run", "language"], how="left")
    found = neurons.join(counts.select(*keys, "active", "seen"), on=keys, how="left")
    require(found.height == neurons.height and found["seen"].null_count() == 0, "a neuron has no counts")
    wrong = found.filter((polars.col("active") / polars.col("seen") - polars.col("probability")).abs() > 1e-6)
    require(wrong.height == 0, f"{wrong.height} probabilities are not the counts over the tokens: {wrong.head(1)}")
    return f"{found.height} neurons"


def shape_of_model(atlas, mask_path, names):
    """(layers, experts, width) from data/models.parquet, by the model of the table or else, if the table is empty, by the folder."""
    models = polars.read_parquet(atlas.folder / "data/models.parquet").with_columns(polars.col("id").cast(polars.String))
    folder = mask_path.split("/")[1]
    rows = [row for row in models.iter_rows(named=True) if row["id"] in names or (not names and row["id"].replace("/", "__") == folder)]
    shapes = {(row["layers"], row.get("experts", 1), row["width"]) for row in rows}
    require(len(shapes) == 1, f"data/models.parquet gives {len(shapes)} shapes for {names or folder}")
    return shapes.pop()


def pth(file):
    import torch

    lists = torch.load(file, weights_only=True)
    require(isinstance(lists, list) and lists, f"holds a {type(lists).__name__}, but it must be a list of languages")
    layers = {len(language) for language in lists if isinstance(language, list)}
    require(len(layers) == 1 and all(isinstance(language, list) for language in lists), f"languages have {sorted(layers)} layers")
    for i, language in enumerate(lists):
        for j, layer in enumerate(language):
            good = isinstance(layer, torch.Tensor) and layer.dtype == torch.int64 and layer.dim() == 1
            require(good, f"[{i}][{j}] is not a one-dimensional int64 tensor: {layer!r:.80}")
            require(bool((layer >= 0).all()) and bool((layer.diff() > 0).all()), f"[{i}][{j}] is not sorted, or holds a negative or double index")
    return f"{len(lists)} languages, {layers.pop()} layers, {sum(len(layer) for language in lists for layer in language)} neurons"


def main():
    parser = argparse.ArgumentParser(description="Reads a release folder without neuroglot's code.")
    parser.add_argument("atlas", type=Path)
    parser.add_argument("--pth", type=Path, nargs="*", action="extend", default=[])
    options = parser.parse_args()
    atlas = Atlas(options.atlas)
    report = Report()

    report.check("manifest", manifest_is_complete, atlas)
    for path in sorted(atlas.files):
        report.check(f"digest {path}", digest, atlas, path)
    report.check("card", card, atlas)
    for name in atlas.configs:
        report.check(f"datasets {name}", config_with_datasets, atlas, name)
    report.check("datasets without a name", default_with_datasets, atlas)
    for path in atlas.tables():
        report.check(f"readers {path}", table_with_all, atlas, path)
        report.check(f"format {path}", table_format, atlas, path)
        if path.startswith("data/neurons/"):
            report.check(f"order {path}", neurons_are_sorted, atlas, path)
            report.check(f"probabilities {path}", probabilities, atlas, path)
    for path in atlas.masks():
        report.check(f"mask {path}", mask_with_table, atlas, path)
    for file in options.pth:
        if importlib.util.find_spec("torch"):
            report.check(f"pth {file.name}", pth, file)
        else:
            print(f"skip  pth {file.name}: torch is not installed here")
    if report.failures:
        sys.exit(f"{report.failures} checks failed: {options.atlas} is not readable as the format promises")


if __name__ == "__main__":
    main()
