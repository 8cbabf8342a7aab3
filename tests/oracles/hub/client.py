#!/usr/bin/env python3
"""What a user of Python's huggingface_hub and datasets does with a repository; none of our code.

usage: client.py upload FOLDER REPO [TAG]     create the data set (private), upload the folder, tag it
       client.py download REPO REVISION DIR   the snapshot of a revision
       client.py cached REPO REVISION         the snapshot in the shared cache, without asking the Hub
       client.py load REPO REVISION           every configuration of the card, by datasets.load_dataset
       client.py refused                      what the Hub refuses, by the names of Python's exceptions

Prints one JSON object. The Hub, the token and the cache are those of HF_ENDPOINT, HF_TOKEN and HF_HOME.
"""
import hashlib
import json
import os
import sys
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, errors, snapshot_download


def hashes(folder):
    """SHA-256 of every file that is not the client's own bookkeeping."""
    files = (path for path in Path(folder).rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in names.items() if not name.startswith(".cache/")}


def upload(folder, repo, tag=None):
    api = HfApi()
    api.create_repo(repo, repo_type="dataset", private=True, exist_ok=True)
    commit = api.upload_folder(repo_id=repo, folder_path=folder, repo_type="dataset")
    if tag:
        api.create_tag(repo, tag=tag, repo_type="dataset")
    history = api.list_repo_commits(repo, repo_type="dataset")
    refs = api.list_repo_refs(repo, repo_type="dataset")
    tree = api.list_repo_tree(repo, repo_type="dataset", recursive=True, expand=True)
    return {
        "commit": commit.oid,
        "commits": len(history),
        "tags": {ref.name: ref.target_commit for ref in refs.tags},
        "lfs": {file.path: file.lfs.sha256 for file in tree if getattr(file, "lfs", None)},
    }


def download(repo, revision, folder):
    snapshot_download(repo, repo_type="dataset", revision=revision, local_dir=folder)
    return hashes(folder)


def cached(repo, revision):
    return hashes(snapshot_download(repo, repo_type="dataset", revision=revision, local_files_only=True))


def load(repo, revision):
    import datasets

    rows = {}
    for config in datasets.get_dataset_config_names(repo, revision=revision):
        splits = datasets.load_dataset(repo, config, revision=revision)
        rows[config] = {name: split.num_rows for name, split in splits.items()}
    return rows


def refused():
    """Of `atlas/open` (public), `atlas/hidden` (private) and `lab/gated` (gated), each with a README, asked by HF_TOKEN."""
    api = HfApi()

    def name(act):
        try:
            act()
        except Exception as error:  # Its class is what is asked for.
            return f"{type(error).__name__} {error.response.status_code}" if hasattr(error, "response") else type(error).__name__
        return "allowed"

    def file(repo, revision="main", path="README.md"):
        return lambda: api.hf_hub_download(repo, path, repo_type="dataset", revision=revision)

    add = CommitOperationAdd("notes.txt", b"late")
    first = lambda: api.list_repo_commits("atlas/open", repo_type="dataset")[-1].commit_id
    commit = lambda **more: api.create_commit("atlas/open", [add], commit_message="late", repo_type="dataset", **more)
    return {
        "whoami": name(api.whoami),
        "open": name(file("atlas/open")),
        "hidden": name(file("atlas/hidden")),
        "gated": name(file("lab/gated")),
        "gated info": name(lambda: api.dataset_info("lab/gated")),
        "missing repository": name(file("atlas/nothing")),
        "missing revision": name(file("atlas/open", revision="v9")),
        "missing file": name(file("atlas/open", path="nothing.txt")),
        "stale parent": name(lambda: commit(parent_commit=first())),
        "tag twice": name(lambda: [api.create_tag("atlas/open", tag="v1", repo_type="dataset") for _ in range(2)]),
        "foreign namespace": name(lambda: api.create_repo("someone/else", repo_type="dataset")),
        "taken": name(lambda: api.create_repo("atlas/open", repo_type="dataset")),
    }


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    commands = {"upload": upload, "download": download, "cached": cached, "load": load, "refused": refused}
    if len(sys.argv) < 2 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    print(json.dumps(commands[sys.argv[1]](*sys.argv[2:])))
