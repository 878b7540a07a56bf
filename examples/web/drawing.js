// What a visitor draws, and the 8 x 8 pixels that scikit-learn's digits have of a drawing: it is scaled to a bitmap of
// 32 x 32 that it fills from edge to edge, and each pixel counts what is black in its 4 x 4 of them, 0 to 16. All digits
// of the data have about as much black, a 1 in broader strokes than an 8: a drawing gets strokes as broad as that takes.

const BITMAP = 32;
const PIXELS = 8;
const STROKE = 5; // of the bitmap's pixels
const [THINNEST, BROADEST] = [4, 9];
const BLACK = 0.3; // of the bitmap, in the data

export class Drawing {
  constructor(canvas, changed) {
    this.canvas = canvas;
    this.changed = changed;
    this.strokes = [];
    const scale = window.devicePixelRatio || 1;
    canvas.width = canvas.clientWidth * scale;
    canvas.height = canvas.clientHeight * scale;
    this.context = canvas.getContext("2d");
    this.context.scale(scale, scale);
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.strokes.push([at(event)]);
      this.show();
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!canvas.hasPointerCapture(event.pointerId)) return;
      const events = event.getCoalescedEvents?.() ?? [];
      this.strokes.at(-1).push(...(events.length ? events : [event]).map(at));
      this.show();
    });
  }

  clear() {
    this.strokes = [];
    this.show();
  }

  show() {
    this.context.clearRect(0, 0, this.canvas.clientWidth, this.canvas.clientHeight);
    draw(this.context, this.strokes, 16);
    this.changed();
  }

  /** Float32Array of 64 in [0, 1]; null where nothing is drawn. */
  pixels() {
    if (!this.strokes.length) return null;
    const black = this.bitmap(STROKE).reduce((sum, each) => sum + each) / BITMAP ** 2;
    const bitmap = this.bitmap(Math.min(Math.max((STROKE * BLACK) / black, THINNEST), BROADEST));
    const pixels = new Float32Array(PIXELS * PIXELS);
    const block = BITMAP / PIXELS;
    bitmap.forEach((value, index) => {
      const [x, y] = [index % BITMAP, Math.floor(index / BITMAP)];
      pixels[Math.floor(y / block) * PIXELS + Math.floor(x / block)] += value / block ** 2;
    });
    return pixels;
  }

  /** The drawing in BITMAP x BITMAP zeros and ones, with strokes of a width. */
  bitmap(width) {
    const points = this.strokes.flat();
    const [xs, ys] = [points.map(([x]) => x), points.map(([, y]) => y)];
    const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    const scale = (BITMAP - width) / Math.max(right - left, bottom - top, 1);
    const moved = this.strokes.map((stroke) => stroke.map(([x, y]) => [
      BITMAP / 2 + (x - (left + right) / 2) * scale,
      BITMAP / 2 + (y - (top + bottom) / 2) * scale,
    ]));
    const context = new OffscreenCanvas(BITMAP, BITMAP).getContext("2d", { willReadFrequently: true });
    draw(context, moved, width);
    const { data } = context.getImageData(0, 0, BITMAP, BITMAP);
    return Array.from({ length: BITMAP ** 2 }, (_, index) => (data[4 * index + 3] >= 128 ? 1 : 0));
  }
}

function at(event) {
  return [event.offsetX, event.offsetY];
}

function draw(context, strokes, width) {
  context.lineWidth = width;
  context.lineCap = context.lineJoin = "round";
  context.strokeStyle = "#1c2733";
  for (const stroke of strokes) {
    context.beginPath();
    context.moveTo(...stroke[0]);
    stroke.forEach((point) => context.lineTo(...point));
    context.stroke();
  }
}

/** Shows 64 values in [0, 1] as gray pixels. */
export function drawPixels(canvas, pixels) {
  canvas.width = canvas.height = PIXELS;
  const context = canvas.getContext("2d");
  const image = context.createImageData(PIXELS, PIXELS);
  pixels.forEach((value, index) => image.data.set([28, 39, 51, 255 * value], 4 * index));
  context.putImageData(image, 0, 0);
}
