// The loss curve: each step in a light line, the mean of those around it in a dark one, on a logarithmic axis.

const TICKS = [10, 3, 1, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001];
const MARGIN = { left: 44, right: 10, top: 8, bottom: 26 };
const AROUND = 0.03; // of all steps, to each side

export function drawCurve(canvas, losses, steps) {
  const { clientWidth: width, clientHeight: height } = canvas;
  const scale = window.devicePixelRatio || 1;
  canvas.width = width * scale;
  canvas.height = height * scale;
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  const positive = losses.filter((loss) => loss > 0);
  const top = Math.log(Math.max(3, ...positive) * 1.1);
  const bottom = Math.log(Math.min(0.3, ...positive) * 0.8);
  const x = (index) => MARGIN.left + (index / Math.max(1, steps - 1)) * (width - MARGIN.left - MARGIN.right);
  const y = (loss) => {
    const part = (top - Math.log(Math.max(loss, 1e-6))) / (top - bottom);
    return MARGIN.top + part * (height - MARGIN.top - MARGIN.bottom);
  };
  axes(context, x, y, { width, height, steps, ticks: TICKS.filter((t) => Math.log(t) < top && Math.log(t) > bottom) });
  line(context, losses.map((loss, index) => [x(index), y(loss)]), "#a8c7f5", 1);
  const reach = Math.round(AROUND * steps);
  const means = losses.map((_, index) => {
    const side = Math.min(reach, index, losses.length - 1 - index); // as many before it as after it
    const around = losses.slice(index - side, index + side + 1);
    return [x(index), y(around.reduce((a, b) => a + b) / around.length)];
  });
  line(context, means, "#1f6feb", 2.2);
}

function axes(context, x, y, { width, height, steps, ticks }) {
  context.font = "12px system-ui, sans-serif";
  context.fillStyle = "#66737f";
  context.strokeStyle = "#e6eaee";
  context.textAlign = "right";
  context.textBaseline = "middle";
  for (const tick of ticks) {
    line(context, [[MARGIN.left, y(tick)], [width - MARGIN.right, y(tick)]], "#e6eaee", 1);
    context.fillText(String(tick), MARGIN.left - 8, y(tick));
  }
  context.textBaseline = "alphabetic";
  context.textAlign = "left";
  context.fillText("0", MARGIN.left, height - 8);
  context.textAlign = "center";
  context.fillText("step", (MARGIN.left + width) / 2, height - 8);
  context.textAlign = "right";
  context.fillText(steps ? String(steps) : "", width - MARGIN.right, height - 8);
}

function line(context, points, colour, width) {
  context.beginPath();
  points.forEach(([px, py]) => context.lineTo(px, py));
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.lineJoin = "round";
  context.stroke();
}
