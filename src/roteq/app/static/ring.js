// The maps of all group elements on a ring: tiles on a canvas, angles and marks above it.

import { arrow, direction, layout, within } from "./layout.js";
import { draw, make } from "./make.js";

const SMALL = 12; // maps of fewer pixels are shown whole, larger ones on their inscribed disc

export class Ring {
  /** id: of the canvas; turn(element): what a click on a place asks for. */
  constructor(id, turn) {
    this.canvas = make("canvas", { id, role: "img", "aria-label": "Not drawn yet." });
    this.overlay = draw("svg", { "aria-hidden": "true", class: "over" });
    this.element = make("div", { class: "ring" }, this.canvas, this.overlay);
    this.turn = turn;
    this.shown = null;
    this.places = "";
    new ResizeObserver(() => this.paint()).observe(this.element);
  }

  /** shown: {elements, tile, sprite, input, angle, moved: index of the place of what stood at 0 | null, label}. */
  show(shown) {
    this.shown = shown;
    this.paint();
  }

  /** Whether only the inscribed disc of each map is shown. */
  static isDisc([height, width]) {
    return height === width && width >= SMALL;
  }

  paint() {
    const size = this.element.clientWidth;
    const { shown } = this;
    if (!shown || !size) return;
    const isDisc = Ring.isDisc(shown.tile) && shown.elements.length > 1;
    const where = { ...layout(shown.elements, size, isDisc), size, isDisc };
    this.element.classList.toggle("single", shown.elements.length === 1);
    this.paintTiles(where);
    this.paintOver(where);
    this.canvas.dataset.angle = shown.angle;
    this.canvas.setAttribute("aria-label", shown.label);
  }

  paintTiles(where) {
    const { canvas, shown } = this;
    const scale = window.devicePixelRatio || 1;
    const [across, down] = [Math.round(where.size * scale), Math.round(where.height * scale)];
    if (canvas.width !== across || canvas.height !== down) Object.assign(canvas, { width: across, height: down });
    const context = canvas.getContext("2d");
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, where.size, where.height);
    context.imageSmoothingQuality = "high";
    const [height, width] = shown.tile;
    const [w, h] = within(width, height, where.tile);
    context.imageSmoothingEnabled = width > w * scale;
    where.at.forEach(([x, y], i) => {
      context.save();
      if (where.isDisc) {
        context.beginPath();
        context.arc(x, y, w / 2, 0, 2 * Math.PI);
        context.clip();
      }
      context.drawImage(shown.sprite, i * width, 0, width, height, x - w / 2, y - h / 2, w, h);
      context.restore();
    });
    if (!shown.input) return;
    const { side, x, y } = where.middle;
    const [a, b] = within(shown.input.naturalWidth, shown.input.naturalHeight, side);
    context.imageSmoothingEnabled = shown.input.naturalWidth > 0.5 * a * scale;
    context.drawImage(shown.input, x - a / 2, y - b / 2, a, b);
  }

  paintOver(where) {
    const { overlay, shown } = this;
    const key = JSON.stringify([where.size, where.isDisc, shown.elements]);
    if (key !== this.places) {
      this.places = key;
      overlay.setAttribute("viewBox", `0 0 ${where.size} ${where.height}`);
      this.marks = draw("g");
      const hits = shown.elements.map((element, i) => this.place(element, where, i));
      overlay.replaceChildren(...shown.elements.flatMap((e, i) => angleLabel(e, where, i)), this.marks, ...hits);
    }
    this.marks.replaceChildren(...(where.arc ? marks(shown, where) : []));
  }

  /** What is pointed at: a name, and a click turns the picture there. */
  place(element, where, i) {
    const hit = outline("hit", where, i, 0);
    const title = draw("title");
    title.textContent = where.arc ? `${element.label}: turn the picture there` : element.label;
    hit.append(title);
    if (where.arc) hit.addEventListener("click", () => this.turn(element));
    return hit;
  }
}

/** The outline of a place, so far outside of its tile. */
function outline(kind, where, i, outside) {
  const [x, y] = where.at[i];
  const half = where.tile / 2 + outside;
  if (where.isDisc) return draw("circle", { class: kind, cx: x, cy: y, r: half });
  return draw("rect", { class: kind, x: x - half, y: y - half, width: 2 * half, height: 2 * half, rx: outside });
}

/** The way from place 0 to where its map has to be. */
function marks({ angle, moved }, where) {
  const { size, arc } = where;
  const found = [];
  if (angle || moved) found.push(outline("home", where, 0, 2.5));
  found.push(draw("circle", { class: "start", cx: size / 2, cy: size / 2 - arc, r: 3.5 }));
  if (angle) {
    const [line, head] = arrow(size, arc, angle);
    found.push(draw("path", { class: "arc", d: line }), draw("path", { class: "head", d: head }));
  }
  if (moved !== null) found.push(outline("moved", where, moved, 2.5));
  return found;
}

function angleLabel(element, where, i) {
  if (element.mirror || !where.arc) return [];
  const [x, y] = where.at[i];
  const [u, v] = direction(element.angle);
  const edge = where.isDisc ? 1 : Math.max(Math.abs(u), Math.abs(v));
  const far = where.tile / 2 / edge + 13 + 4 * u * u;
  const text = draw("text", { x: x + far * u, y: y + far * v });
  text.textContent = `${+element.angle.toFixed(1)}°`;
  return [text];
}
