// The worker that trains. It is told {steps} and {image}, and tells the page of {ready, step, evaluated, done,
// prediction, error}.

import * as ort from "./onnxruntime/ort.wasm.min.mjs";
import { got, readArrays } from "./arrays.js";

ort.env.wasm.numThreads = 1; // more need headers that a plain static server does not send
ort.env.wasm.wasmPaths = new URL("./onnxruntime/", import.meta.url).href;

const PIXELS = 64;
const CLASSES = 10;
/** What index.json says, the arrays and the sessions; `load` gives them. */
let about, first, digits, step, evaluation;
/** The state that the training is in. */
let state;
let last = Promise.resolve();

async function load() {
  about = await (await got("index.json")).json();
  [first, digits] = await Promise.all([readArrays(about.state), readArrays(about.digits)]);
  const options = { executionProviders: ["wasm"] };
  step = await ort.InferenceSession.create(about.step.model, options);
  evaluation = await ort.InferenceSession.create(about.evaluation.model, options);
  state = tensorsOf(first);
  const samples = Array.from(digits.test.data.slice(0, about.shown), (index) => ({
    pixels: digits.images.data.slice(index * PIXELS, (index + 1) * PIXELS),
    label: digits.labels.data[index],
  }));
  postMessage({ kind: "ready", steps: digits.order.dims[0], samples });
}

function tensorsOf(arrays) {
  return Object.fromEntries(
    Object.entries(arrays).map(([name, { type, dims, data }]) => [name, new ort.Tensor(type, data, dims)]));
}

/** Sessions run one after the other: a prediction waits for the step before it. */
function run(session, feeds, outputs) {
  const result = last.then(() => session.run(feeds, outputs));
  last = result.catch(() => {});
  return result;
}

/** Images and labels by their indices, as the graphs are fed them. */
function batch(indices) {
  const images = new Float32Array(indices.length * PIXELS);
  const labels = new BigInt64Array(indices.length);
  indices.forEach((index, row) => {
    const image = digits.images.data.subarray(index * PIXELS, (index + 1) * PIXELS);
    image.forEach((value, pixel) => { images[row * PIXELS + pixel] = value / 16; });
    labels[row] = BigInt(digits.labels.data[index]);
  });
  return { images, labels };
}

function fed({ images, labels }, names) {
  const [x, y] = names;
  return {
    [x]: new ort.Tensor("float32", images, [labels.length, 1, 8, 8]),
    [y]: new ort.Tensor("int64", labels, [labels.length]),
  };
}

async function train(steps) {
  const [, size] = digits.order.dims;
  state = tensorsOf(first);
  for (let index = 0; index < steps; index++) {
    const rate = about.learning_rate * (1 - index / steps);
    const indices = digits.order.data.subarray(index * size, (index + 1) * size);
    const feeds = {
      ...state,
      ...fed(batch(indices), about.step.data),
      [about.step.learning_rate]: new ort.Tensor("float32", [rate], [1]),
      [about.step.lazy_reset_grad]: new ort.Tensor("bool", [true], []),
    };
    const start = performance.now();
    const results = await run(step, feeds);
    const milliseconds = performance.now() - start;
    // All that a training keeps: what a step gives for a state is fed at the next one.
    for (const [name, following] of Object.entries(about.step.following)) state[name] = results[following];
    postMessage({ kind: "step", index, loss: results[about.step.outputs[0]].data[0], milliseconds });
    if ((index + 1) % about.evaluate_every === 0 && index + 1 < steps) await evaluate();
    await messages();
  }
  await evaluate();
  postMessage({ kind: "done" });
}

/** Lets messages of the page in between two steps. */
function messages() {
  const { port1, port2 } = new MessageChannel();
  return new Promise((resolve) => {
    port1.onmessage = () => { port1.close(); resolve(); };
    port2.postMessage(null);
  });
}

async function logits(images, labels) {
  const vectors = Object.fromEntries(about.evaluation.state.map((name) => [name, state[name]]));
  const { logits: name } = about.evaluation;
  const results = await run(evaluation, { ...vectors, ...fed({ images, labels }, about.evaluation.data) }, [name]);
  return results[name].data;
}

async function evaluate() {
  const indices = Array.from(digits.test.data);
  const { images, labels } = batch(indices);
  const scores = await logits(images, labels);
  const predictions = indices.map((_, row) => best(scores.subarray(row * CLASSES, (row + 1) * CLASSES)));
  const right = predictions.filter((prediction, row) => BigInt(prediction) === labels[row]).length;
  postMessage({ kind: "evaluated", predictions, accuracy: right / indices.length });
}

function best(scores) {
  return scores.indexOf(Math.max(...scores));
}

async function predict(image) {
  const scores = await logits(image, new BigInt64Array(1)); // the label is for the loss, which nobody asks for
  const largest = Math.max(...scores);
  const powers = Array.from(scores, (score) => Math.exp(score - largest));
  const sum = powers.reduce((a, b) => a + b);
  postMessage({ kind: "prediction", digit: best(scores), probabilities: powers.map((power) => power / sum) });
}

function failed(error) {
  postMessage({ kind: "error", text: String(error?.message ?? error) });
}

const loaded = load();
loaded.catch(failed);
onmessage = ({ data }) => {
  loaded.then(() => (data.image ? predict(data.image) : train(data.steps))).catch(failed);
};
