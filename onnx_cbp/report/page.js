"use strict";
// What the model says is put into the document as text and as numbers, never as HTML.
const data = JSON.parse(document.getElementById("document").textContent);
const SVG = "http://www.w3.org/2000/svg";
const find = (id) => document.getElementById(id);

function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") element.className = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// Cut in the middle, and more of the end is kept: there names differ.
function cut(text, length) {
  if (text.length <= length) return text;
  const head = Math.floor((length - 1) / 3);
  return `${text.slice(0, head)}…${text.slice(text.length - (length - 1 - head))}`;
}

function number(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 0.01 && size < 10000 ? String(Number(value.toPrecision(3))) : value.toExponential(1);
}

// Names without what all of them begin and end with, and without parts that the next one repeats ("a.0" in "a.0/a.0.1").
function shorten(layers) {
  const split = layers.map((layer) => layer.name.split("/").filter((part, index, all) => part && !(all[index + 1] || "").startsWith(`${part}.`)));
  const shared = (at) => split.length > 1 && split.every((parts) => parts.length > 1 && at(parts) === at(split[0]));
  while (shared((parts) => parts[0])) split.forEach((parts) => parts.shift());
  while (shared((parts) => parts[parts.length - 1])) split.forEach((parts) => parts.pop());
  layers.forEach((layer, index) => { layer.brief = split[index].join("/") || layer.name; });
}

const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

// The table.

const WORDS = { rewritten: "rewritten", done: "rewritten already", frozen: "frozen", refused: "refused" };
const STATES = Object.keys(WORDS).filter((state) => data.layers.some((layer) => layer.state === state));
const measured = data.layers.some((layer) => layer.statistics && layer.statistics.mean_off !== undefined);
const checked = data.layers.some((layer) => layer.check.length > 0);
const worst = (layer) => layer.check.length ? Math.max(...layer.check.map((row) => row.relative ?? Infinity)) : null;
const fact = (name) => (layer) => layer.statistics ? layer.statistics[name] ?? null : null;
const COLUMNS = [
  { title: "#", kind: "number", value: (layer) => layer.at + 1 },
  { title: "name", kind: "name", value: (layer) => layer.brief },
  { title: "C", kind: "number", value: (layer) => layer.channels, tip: "channels" },
  { title: "shape of X", value: (layer) => layer.shape },
  ...(STATES.length > 1 ? [{ title: "state", value: (layer) => layer.state }] : []),
  ...(measured ? [
    { title: "mean off", kind: "number", value: fact("mean_off"), tip: "largest distance of the running mean from the measured one, in standard deviations of the channel" },
    { title: "var off", kind: "number", value: fact("var_off"), tip: "largest factor between the running variance and the measured one" },
  ] : []),
  ...(checked ? [{ title: "check", kind: "number", value: worst, tip: "largest relative difference of what this layer gives, keeps and learns" }] : []),
];
const view = { text: "", state: "all", column: 0, down: false, chosen: null, order: [] };

function cell(column, layer) {
  const value = column.value(layer);
  if (column.title === "state") {
    return make("td", {}, make("span", { class: `pill ${layer.state}`, title: WORDS[layer.state] }, value));
  }
  if (column.kind === "name") return make("td", { class: "name", title: layer.name }, cut(value, 33));
  if (column.kind !== "number") return make("td", {}, value || "?");
  if (column.title === "var off" && value !== null) return make("td", { class: "number" }, `×${number(value)}`);
  const bad = column.title === "check" && layer.check.some((row) => !row.good);
  return make("td", { class: bad ? "number bad" : "number" }, column.title === "check" && value === null ? "" : number(value));
}

function showTable() {
  const column = COLUMNS[view.column];
  const words = view.text.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = (layer) => words.every((word) => layer.words.includes(word)) && (view.state === "all" || layer.state === view.state);
  const compared = (one, other) => {
    const [a, b] = [column.value(one), column.value(other)];
    if (a === b) return one.at - other.at;
    if (a === null || b === null) return a === null ? 1 : -1; // what is not known comes last
    const order = typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true });
    return view.down ? -order : order;
  };
  view.order = data.layers.filter(fits).sort(compared);
  find("layers").tHead.rows[0].replaceChildren(...COLUMNS.map((each, index) => {
    const button = make("button", { type: "button" }, each.title + (index === view.column ? (view.down ? " ↓" : " ↑") : ""));
    button.addEventListener("click", () => {
      view.down = view.column === index ? !view.down : each.kind === "number" && index > 0;
      view.column = index;
      showTable();
      find("layers").tHead.rows[0].cells[index].firstChild.focus();
    });
    const heading = make("th", { scope: "col", class: each.kind === "number" ? "number" : "" }, button);
    if (each.tip) heading.title = each.tip;
    if (index === view.column) heading.setAttribute("aria-sort", view.down ? "descending" : "ascending");
    return heading;
  }));
  find("layers").tBodies[0].replaceChildren(...view.order.map((layer) => {
    const row = make("tr", { tabindex: layer === view.chosen ? 0 : -1, "aria-selected": layer === view.chosen }, ...COLUMNS.map((each) => cell(each, layer)));
    row.addEventListener("click", () => choose(layer));
    layer.row = row;
    return row;
  }));
  find("none").hidden = view.order.length > 0;
  find("shown").textContent = `${view.order.length} of ${plural(data.layers.length, "batch norm")} shown`;
}

function choose(layer, focus = false) {
  if (view.chosen && view.chosen.row) {
    view.chosen.row.setAttribute("aria-selected", "false");
    view.chosen.row.tabIndex = -1;
  }
  view.chosen = layer;
  if (layer.row) {
    layer.row.setAttribute("aria-selected", "true");
    layer.row.tabIndex = 0;
    layer.row.scrollIntoView({ block: "nearest" });
    if (focus) layer.row.focus();
  }
  history.replaceState(null, "", `#${layer.at + 1}`);
  showDetail(layer);
}

// A chosen batch norm.

function facts(pairs) {
  const known = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return make("dl", { class: "facts" }, ...known.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, String(value)))));
}

function showDetail(layer) {
  const node = layer.node === layer.name ? null : layer.node;
  find("detail").replaceChildren(
    make("h2", {}, layer.name),
    facts([["node", node], ["form", layer.form], ["X", layer.shape], ["channels", layer.channels], ["epsilon", layer.epsilon === null ? null : number(layer.epsilon)], ["momentum", layer.momentum === null ? null : number(layer.momentum)]]),
    ...layer.parts.flatMap((part) => showPart(part)),
    ...showStatistics(layer),
    ...(layer.check.length ? [make("h3", {}, "Check: this layer's results, against the original"), differences(layer.check)] : []),
  );
}

function showPart(part) {
  const saying = make("p", {}, part.explanation);
  const wide = part.after && Math.max(part.before.width, part.after.width) > 420;
  const graphs = make("div", { class: wide ? "pair wide" : "pair" }, figure(part.after ? "Before" : "As it is", part.before), part.after ? figure("After the rewrite", part.after) : null);
  const states = new Set([part.before, part.after].filter(Boolean).flatMap((graph) => graph.nodes.map((node) => node.state)));
  const names = part.after
    ? { old: "is replaced", new: "takes its place", other: "is of another batch norm", "": "stays" }
    : { own: "this batch norm", other: "is of another batch norm" };
  const shown = Object.entries(names).filter(([state]) => states.has(state));
  const legend = make("p", { class: "legend" }, ...shown.map(([state, text]) => make("span", { class: state }, text)));
  return [make("h3", {}, part.title), saying, graphs, legend];
}

function figure(title, graph) {
  const below = make("div", { class: "node-facts", hidden: "" });
  return make("figure", {}, make("figcaption", {}, title), make("div", { class: "draw" }, drawn(graph, title, below)), below);
}

function drawn(graph, title, below) {
  const svg = draw("svg", { width: graph.width, height: graph.height, viewBox: `0 0 ${graph.width} ${graph.height}`, role: "group", "aria-label": `${title}: ${plural(graph.nodes.length, "node")}` });
  for (const edge of graph.edges) {
    const path = curve(edge.points);
    const [x, y] = edge.points[edge.points.length - 1];
    const text = edge.values.map(([name, shape]) => `${name} ${shape}`.trim()).join("\n");
    svg.append(draw("g", { class: "edge" }, draw("title", {}, text), draw("path", { class: "line", d: path }), draw("path", { class: "tip", d: `M${x},${y} l-4,-7 h8 z` }), draw("path", { class: "wide", d: path })));
  }
  for (const node of graph.nodes) {
    const kind = node.domain ? `${node.domain}.${node.op}` : node.op;
    const group = draw("g", { class: `node ${node.state}`, transform: `translate(${node.x},${node.y})`, tabindex: 0, role: "button", "aria-label": `${kind} ${node.name}` });
    group.append(draw("title", {}, `${kind}\n${node.name}`), draw("rect", { width: node.w, height: node.h, rx: 6 }));
    group.append(draw("text", { class: "op", x: 10, y: 17.5 }, cut(node.op, 27)));
    if (node.more) group.append(draw("text", { class: "more", x: node.w - 8, y: 17, "text-anchor": "end" }, `+${node.more}`, draw("title", {}, `${plural(node.more, "reader")} of its results not shown`)));
    node.rows.forEach(([formal, name], index) => {
      const y = 37 + 16 * index;
      const label = cut(formal, 12);
      group.append(draw("text", { class: "formal", x: 10, y }, label));
      group.append(draw("text", { x: 10 + 6.7 * (label.length ? label.length + 1 : 0), y }, cut(name, 29 - (label.length ? label.length + 1 : 0))));
    });
    const show = () => {
      svg.querySelectorAll(".chosen").forEach((each) => each.classList.remove("chosen"));
      group.classList.add("chosen");
      showNode(node, kind, below);
    };
    group.addEventListener("click", show);
    group.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        show();
      }
    });
    svg.append(group);
  }
  return svg;
}

function curve(points) {
  let path = `M${points[0][0]},${points[0][1]}`;
  for (let index = 1; index < points.length; index++) {
    const [[x, y], [a, b]] = [points[index - 1], points[index]];
    const middle = (y + b) / 2;
    path += x === a ? ` L${a},${b}` : ` C${x},${middle} ${a},${middle} ${a},${b}`;
  }
  return path;
}

function showNode(node, kind, below) {
  const line = (what, [name, shape]) => make("tr", {}, make("td", {}, what), make("td", {}, name || "(none)"), make("td", {}, shape));
  below.hidden = false;
  below.replaceChildren(
    make("p", {}, make("strong", {}, kind), node.name ? ` ${node.name}` : ""),
    make("table", {}, make("tbody", {},
      ...node.inputs.map((value) => line("in", value)),
      ...node.outputs.map((value) => line("out", value)),
      ...node.attributes.map(([name, value]) => line(name, [value, ""])))),
  );
}

// Statistics.

function showStatistics(layer) {
  const found = layer.statistics;
  const forward = layer.parts.some((part) => part.title === "Forward");
  if (!found) return forward && layer.no_statistics ? [make("h3", {}, "Running statistics"), make("p", { class: "soft" }, layer.no_statistics)] : [];
  const fresh = Boolean(found.mean.fresh || found.var.fresh);
  const lines = [];
  if (found.mean_off !== undefined) {
    lines.push(make("p", {}, `The running mean is at most ${number(found.mean_off)} standard deviations from the measured one, and the variances differ by a factor of at most ${number(found.var_off)}.`));
  } else if (!fresh) {
    lines.push(make("p", { class: "soft" }, "Give --data to hold them against those of data."));
  }
  const legend = make("p", { class: "legend" }, found.mean.running ? make("span", { class: "running" }, "running, in the model") : null, fresh ? make("span", { class: "fresh" }, "measured on the data") : null);
  return [make("h3", {}, "Running statistics, over the channels"), ...lines, make("div", { class: "pair" }, histogram("mean", found.mean), histogram("variance", found.var)), legend];
}

function histogram(title, bins) {
  const [width, height, left, bottom] = [340, 170, 30, 24];
  if (!bins.edges.length) return make("figure", {}, make("figcaption", {}, title), make("p", { class: "soft" }, "No value is finite."));
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, width: "100%", role: "img", "aria-label": `histogram of the ${title}` });
  const scale = bins.logarithmic ? Math.log : (value) => value;
  const [low, high] = [scale(bins.edges[0]), scale(bins.edges[bins.edges.length - 1])];
  const across = (value) => left + (width - left - 12) * (scale(value) - low) / (high - low || 1);
  const most = Math.max(1, ...(bins.running || []), ...(bins.fresh || []));
  const up = (count) => height - bottom - (height - bottom - 14) * count / most;
  svg.append(draw("line", { class: "axis", x1: left, x2: width - 8, y1: up(0), y2: up(0) }));
  for (const kind of ["running", "fresh"]) {
    (bins[kind] || []).forEach((count, index) => {
      if (!count) return;
      const [x, end] = [across(bins.edges[index]), across(bins.edges[index + 1])];
      svg.append(draw("rect", { class: `bar ${kind}`, x: x + 0.5, y: up(count), width: Math.max(end - x - 1, 1), height: up(0) - up(count) },
        draw("title", {}, `${kind === "running" ? "running" : "measured"}: ${plural(count, "channel")} from ${number(bins.edges[index])} to ${number(bins.edges[index + 1])}`)));
    });
  }
  svg.append(draw("text", { class: "tick", x: left - 5, y: up(most) + 4, "text-anchor": "end" }, String(most)), draw("text", { class: "tick", x: left - 5, y: up(0) + 1, "text-anchor": "end" }, "0"));
  const last = bins.edges.length - 1;
  for (const index of [0, last / 2, last]) {
    const anchor = index === 0 ? "start" : index === last ? "end" : "middle";
    svg.append(draw("text", { class: "tick", x: across(bins.edges[index]), y: height - 8, "text-anchor": anchor }, number(bins.edges[index])));
  }
  const caption = title + (bins.logarithmic ? ", logarithmic" : "") + (bins.strange ? `; ${bins.strange} not finite` : "");
  return make("figure", {}, make("figcaption", {}, caption), make("div", { class: "draw" }, svg));
}

// Check.

function differences(rows) {
  return make("div", { class: "rows" }, make("table", {},
    make("thead", {}, make("tr", {}, ...["result", "kind", "relative difference", ""].map((title, index) => make("th", { class: index === 2 ? "number" : "" }, title)))),
    make("tbody", {}, ...rows.map((row) => make("tr", {},
      make("td", { class: "long" }, row.name), make("td", {}, row.kind), make("td", { class: "number" }, number(row.relative)),
      make("td", { class: row.good ? "good" : "bad" }, row.good ? "ok" : row.problem || "too far apart"))))));
}

function showCheck() {
  const check = data.check;
  const colour = { within: "good", apart: "bad" }[check.state] || "soft";
  const parts = [make("h2", {}, "What check found"), make("p", { class: colour }, check.line)];
  if (check.fusions.length) {
    const heads = ["fusion on", "to the original", "to the row above", ""];
    parts.push(make("div", { class: "columns" },
      make("div", {}, make("h3", {}, "Fusion by fusion"), make("div", { class: "rows" }, make("table", {},
        make("thead", {}, make("tr", {}, ...heads.map((title, index) => make("th", { class: index % 3 ? "number" : "" }, title)))),
        make("tbody", {}, ...check.fusions.map((row) => make("tr", {},
          make("td", {}, row.fusion), make("td", { class: "number" }, number(row.relative)), make("td", { class: "number" }, number(row.by_itself)),
          make("td", { class: row.good ? "good" : "bad" }, row.good ? "ok" : "too far apart"))))))),
      results(check.differences)));
  } else if (check.differences.length) parts.push(results(check.differences));
  find("check").replaceChildren(...parts);
}

function results(rows) {
  const first = rows.slice(0, 8);
  const more = rows.slice(8);
  return make("div", {}, make("h3", {}, "The results that are the farthest off"), differences(first),
    more.length ? make("details", {}, make("summary", {}, `${more.length} more`), differences(more)) : null);
}

// The page.

function start() {
  data.layers.forEach((layer, index) => {
    layer.at = index;
    layer.words = [layer.name, layer.node, layer.form, layer.shape, ...layer.parts.map((part) => part.node)].join(" ").toLowerCase();
  });
  shorten(data.layers);
  find("model").textContent = data.model;
  const counted = STATES.map((state) => `${data.layers.filter((layer) => layer.state === state).length} ${WORDS[state]}`);
  find("summary").textContent = `${plural(data.layers.length, "batch norm")} in ${plural(data.nodes, "node")}${counted.length ? ": " : ""}${counted.join(", ")} · check: ${{ within: "within tolerance", apart: "too far apart" }[data.check.state] || "not run"} · onnx-cbp ${data.version}`;
  find("search").addEventListener("input", (event) => {
    view.text = event.target.value;
    showTable();
  });
  find("states").append(...(STATES.length > 1 ? ["all", ...STATES] : []).map((name) => {
    const button = make("button", { type: "button", "aria-pressed": name === view.state }, name);
    button.addEventListener("click", () => {
      view.state = name;
      for (const each of find("states").children) each.setAttribute("aria-pressed", each === button);
      showTable();
    });
    return button;
  }));
  find("layers").addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const next = step && view.order[view.order.indexOf(view.chosen) + step];
    if (!next) return;
    event.preventDefault();
    choose(next, true);
  });
  showTable();
  showCheck();
  const asked = data.layers[Number(location.hash.slice(1)) - 1] || data.layers[0];
  if (asked) choose(asked);
  else find("detail").replaceChildren(make("p", { class: "soft" }, "The model has no batch norm."));
  document.body.dataset.state = "ready";
}

start();
