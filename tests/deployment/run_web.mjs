// Runs a model with onnxruntime-web's WebAssembly backend.
//
// node tests/deployment/run_web.mjs NODE_MODULES MODEL ARRAYS RESULTS

import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [modules, model, arrays, results] = process.argv.slice(2);
const require = createRequire(pathToFileURL(`${modules}/`));
const ort = require("onnxruntime-web");
ort.env.wasm.numThreads = 1;

const KINDS = { float32: Float32Array, float64: Float64Array, int64: BigInt64Array };

function decoded({ type, dims, data }) {
  const bytes = Uint8Array.from(Buffer.from(data, "base64")); // a copy, so that it is aligned
  return new ort.Tensor(type, new KINDS[type](bytes.buffer), dims);
}

function encoded(tensor) {
  const { buffer, byteOffset, byteLength } = tensor.data;
  return { type: tensor.type, dims: tensor.dims, data: Buffer.from(buffer, byteOffset, byteLength).toString("base64") };
}

const { inputs } = JSON.parse(readFileSync(arrays, "utf8"));
const session = await ort.InferenceSession.create(readFileSync(model), { executionProviders: ["wasm"] });
const feeds = Object.fromEntries(Object.entries(inputs).map(([name, entry]) => [name, decoded(entry)]));
const outputs = await session.run(feeds);
const written = Object.fromEntries(Object.entries(outputs).map(([name, tensor]) => [name, encoded(tensor)]));
writeFileSync(results, JSON.stringify({ inputs, results: written }));
