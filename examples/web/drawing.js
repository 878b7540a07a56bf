// What a visitor draws, and the 8 x 8 pixels that scikit-learn's digits have of a drawing: it is scaled to a bitmap of
// 32 x 32 whose height it fills, and each pixel counts what is black in its 4 x 4 of them, 0 to 16.

const BITMAP = 32;
const PIXELS = 8;
const STROKE = 5; // of the bitmap's pixels, as broad as the strokes of the data

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
    const points = this.strokes.flat();
    const [xs, ys] = [points.map(([x]) => x), points.map(([, y]) => y)];
    const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    const room = BITMAP - STROKE;
    const scale = room / Math.max(right - left, bottom - top, 1);
    const moved = this.strokes.map((stroke) => stroke.map(([x, y]) => [
      BITMAP / 2 + (x - (left + right) / 2) * scale,
      BITMAP / 2 + (y - (top + bottom) / 2) * scale,
    ]));
    const context = new OffscreenCanvas(BITMAP, BITMAP).getContext("2d", { willReadFrequently: true });
    draw(context, moved, STROKE);
    const { data } = context.getImageData(0, 0, BITMAP, BITMAP);
    const pixels = new Float32Array(PIXELS * PIXELS);
    const block = BITMAP / PIXELS;
    for (let y = 0; y < BITMAP; y++) {
      for (let x = 0; x < BITMAP; x++) {
        const black = data[4 * (y * BITMAP + x) + 3] >= 128;
        if (black) pixels[Math.floor(y / block) * PIXELS + Math.floor(x / block)] += 1 / block ** 2;
      }
    }
    return pixels;
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
