#!/usr/bin/env node
// What a user of JavaScript's @huggingface/hub does with a repository; none of our code.
//
// usage: client.cjs download REPO REVISION xet|plain   every file of a revision, and its SHA-256
//        client.cjs snapshot REPO REVISION DIR         the snapshot of a revision in a cache
//        client.cjs upload FOLDER REPO xet|plain       create the data set (private) and upload the folder in one commit
//
// Prints one JSON object. The Hub and the token are those of HF_ENDPOINT and HF_TOKEN; the package is looked for in NODE_PATH.
const { createHash } = require("node:crypto");
const { readFile, readdir } = require("node:fs/promises");
const { join, relative, sep } = require("node:path");
const hub = require("@huggingface/hub");

const common = { hubUrl: process.env.HF_ENDPOINT, ...(process.env.HF_TOKEN && { accessToken: process.env.HF_TOKEN }) };
const dataset = (name) => ({ type: "dataset", name });
const sha256 = (bytes) => createHash("sha256").update(bytes).digest("hex");

async function filesBelow(folder) {
	const entries = await readdir(folder, { recursive: true, withFileTypes: true });
	const files = entries.filter((entry) => !entry.isDirectory()).map((entry) => join(entry.parentPath ?? entry.path, entry.name));
	return Object.fromEntries(files.map((file) => [relative(folder, file).split(sep).join("/"), file]));
}

async function hashes(folder) {
	const found = {};
	for (const [path, file] of Object.entries(await filesBelow(folder))) {
		found[path] = sha256(await readFile(file));
	}
	return found;
}

const commands = {
	async download(repo, revision, way) {
		const found = {};
		for await (const file of hub.listFiles({ ...common, repo: dataset(repo), revision, recursive: true })) {
			if (file.type === "file") {
				const blob = await hub.downloadFile({ ...common, repo: dataset(repo), revision, path: file.path, xet: way === "xet" });
				found[file.path] = sha256(Buffer.from(await blob.arrayBuffer()));
			}
		}
		return found;
	},
	async snapshot(repo, revision, cacheDir) {
		console.debug = () => {};
		return hashes(await hub.snapshotDownload({ ...common, repo: dataset(repo), revision, cacheDir }));
	},
	async upload(folder, repo, way) {
		await hub.createRepo({ ...common, repo: dataset(repo), visibility: "private" });
		const files = [];
		for (const [path, file] of Object.entries(await filesBelow(folder))) {
			files.push({ path, content: new Blob([await readFile(file)]) });
		}
		const output = await hub.uploadFiles({ ...common, repo: dataset(repo), files, useXet: way === "xet" });
		return { commit: output.commit.oid };
	},
};

const [command, ...parameters] = process.argv.slice(2);
commands[command](...parameters).then(
	(result) => console.log(JSON.stringify(result)),
	(error) => {
		console.error(error);
		process.exitCode = 1;
	},
);
