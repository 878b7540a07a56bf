// The page: it shows what the worker tells, and tells it what the visitor draws.

import { drawCurve } from "./curve.js";
import { Drawing, drawPixels } from "./drawing.js";

const element = (id) => document.getElementById(id);
/** What the page knows of its training; for the console, and for programs that drive the page. */
const training = { steps: 0, losses: [], milliseconds: [], accuracy: null, prediction: null };
window.training = training;
const worker = new Worker("training.js", { type: "module" });
let drawsCurve = false;
/** Whether the worker was asked what the drawing is, and whether that has changed since. */
let asked = false;
let outdated = false;

function state(name, text) {
  document.body.dataset.state = name;
  element("status").textContent = text;
  element("again").disabled = name !== "done";
}

function start() {
  Object.assign(training, { losses: [], milliseconds: [], accuracy: null });
  state("training", "Training…");
  worker.postMessage({ steps: training.steps });
}

function curve() {
  if (drawsCurve) return;
  drawsCurve = true;
  requestAnimationFrame(() => {
    drawsCurve = false;
    drawCurve(element("curve"), training.losses, training.steps);
  });
}

function median(values) {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];
}

const HEARD = {
  ready({ steps, samples }) {
    // Not more than there are batches for; ?steps=N trains for less.
    const wanted = Number.parseInt(new URLSearchParams(location.search).get("steps"), 10);
    training.steps = wanted > 0 ? Math.min(wanted, steps) : steps;
    element("samples").replaceChildren(...samples.map(sample));
    start();
  },
  step({ index, loss, milliseconds }) {
    training.losses.push(loss);
    training.milliseconds.push(milliseconds);
    element("step").textContent = `${index + 1} / ${training.steps}`;
    element("loss").textContent = loss.toFixed(4);
    element("time").textContent = `${median(training.milliseconds).toFixed(1)} ms`;
    element("progress").style.width = `${(100 * (index + 1)) / training.steps}%`;
    curve();
  },
  evaluated({ accuracy, predictions }) {
    training.accuracy = accuracy;
    element("accuracy").textContent = `${(100 * accuracy).toFixed(1)} %`;
    [...element("samples").children].forEach((figure, index) => {
      const right = Number(figure.dataset.label) === predictions[index];
      figure.className = right ? "right" : "wrong";
      figure.lastChild.textContent = `${predictions[index]} ${right ? "✓" : "✗"}`;
    });
    changed(); // the network has learned: what does it say of the drawing now?
  },
  done() {
    state("done", "Trained. Draw a digit.");
  },
  prediction({ digit, probabilities }) {
    asked = false;
    if (outdated) return changed();
    training.prediction = { digit, probabilities };
    element("prediction").innerHTML = `It is a <b>${digit}</b> (${Math.round(100 * probabilities[digit])} %)`;
    bars(probabilities, digit);
  },
  error({ text }) {
    state("failed", `Failed: ${text}`);
  },
};

function sample({ pixels, label }) {
  const figure = document.createElement("figure");
  figure.dataset.label = label;
  figure.append(document.createElement("canvas"), document.createElement("figcaption"));
  figure.lastChild.textContent = "–";
  drawPixels(figure.firstChild, Float32Array.from(pixels, (value) => value / 16));
  return figure;
}

function bars(probabilities, best) {
  element("bars").replaceChildren(...probabilities.map((probability, digit) => {
    const bar = document.createElement("div");
    bar.className = digit === best ? "bar best" : "bar";
    const filled = document.createElement("div");
    filled.style.height = `${72 * probability}px`;
    bar.append(filled, String(digit));
    return bar;
  }));
}

function changed() {
  const image = drawing.pixels();
  training.prediction = null;
  outdated = asked;
  if (!image) {
    element("prediction").textContent = "";
    bars(Array(10).fill(0), null);
  } else if (!asked) {
    asked = true;
    worker.postMessage({ image });
  }
  drawPixels(element("pixels"), image ?? new Float32Array(64));
}

const drawing = new Drawing(element("drawing"), changed);
training.drawing = drawing;
worker.onmessage = ({ data: { kind, ...told } }) => HEARD[kind](told);
worker.onerror = (event) => state("failed", `Failed: ${event.message || "the worker did not load"}`);
element("clear").addEventListener("click", () => drawing.clear());
element("again").addEventListener("click", start);
window.addEventListener("resize", curve);
state("loading", "Loading…");
drawing.clear();
curve();
