// The picture in its dial: turned at once in the browser, while the outline of what each network sees stays.

import { address, ask, newest } from "./api.js";
import { circleOf, onCircle } from "./circles.js";
import { direction } from "./layout.js";
import { draw, picture } from "./make.js";
import { shown } from "./shown.js";
import * as state from "./state.js";

const RADIUS = 80; // of the picture, in units of the dial
const TRACK = 86; // of the first ring of flips
const BETWEEN = 4.6;
const GRIP = 106;
const HOLD = 8.5; // radius of the grip

export class Stage {
  constructor(about) {
    this.about = about;
    this.canvas = document.getElementById("stage");
    this.dial = document.getElementById("dial");
    this.image = this.facts = null;
    this.marks = draw("g");
    this.outlines = draw("g");
    this.hand = draw("g");
    this.dial.append(this.outlines, rim(), this.marks, this.hand);
    this.queue = newest(load, (found) => this.opened(found), (error, id) => this.failed(error, id));
    new ResizeObserver(() => this.paint()).observe(this.canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.paint());
    onCircle((circle) => this.mark(circle));
    state.subscribe((view, changed) => this.changed(changed));
    this.open();
    this.turn();
  }

  changed(keys) {
    if (keys.has("image")) this.open();
    if (keys.has("image") || keys.has("mirror") || keys.has("models")) {
      this.outline();
      this.flips();
    }
    if (keys.has("angle") || keys.has("mirror")) this.turn();
  }

  open() {
    const { image } = state.get();
    document.getElementById("empty").hidden = Boolean(image);
    if (image) this.queue.ask(image);
  }

  opened({ facts, image }) {
    if (facts.id !== state.get().image) return;
    this.facts = facts;
    this.image = image;
    state.complain("");
    document.dispatchEvent(new CustomEvent("roteq:opened", { detail: facts }));
    this.name();
    this.outline();
    this.flips();
    this.paint();
  }

  failed(error, id) {
    if (id !== state.get().image) return;
    this.image = this.facts = null;
    for (const [id, text] of [["name", "This picture cannot be shown"], ["truth", ""], ["facts", ""]]) document.getElementById(`image-${id}`).textContent = text;
    this.outline();
    this.paint();
    state.complain(error.message);
  }

  /** The name, the truth, and how it was brought to size. */
  name() {
    const { name, truth, width, height, note, seen } = this.facts;
    const label = document.getElementById("image-name");
    label.textContent = label.title = name;
    document.getElementById("image-truth").textContent = truth === null ? "" : `truth: ${truth}`;
    this.canvas.setAttribute("aria-label", `The picture ${name}`);
    const sizes = new Set(seen.filter((one) => one.size).map((one) => `${one.size[1]} × ${one.size[0]}${one.shape === "disc" ? ", inscribed disc" : ""} (${one.method})`));
    const facts = [`${width} × ${height} pixels; the networks see ${[...sizes].join("; ") || "nothing of it"}.`, note].filter(Boolean);
    document.getElementById("image-facts").textContent = facts.join(" ");
  }

  turn() {
    const { angle, mirror } = state.get();
    const [x, y] = direction(angle);
    const text = draw("text", { x: GRIP * x, y: GRIP * y, class: "grip-angle" });
    text.textContent = angle;
    this.hand.replaceChildren(
      draw("line", { class: "hand", x1: (RADIUS + 1) * x, y1: (RADIUS + 1) * y, x2: (GRIP - HOLD) * x, y2: (GRIP - HOLD) * y }),
      draw("circle", { class: "grip", cx: GRIP * x, cy: GRIP * y, r: HOLD }), text,
    );
    this.dial.setAttribute("aria-valuenow", angle);
    this.dial.setAttribute("aria-valuetext", `${angle} degrees counter-clockwise${mirror ? ", mirrored" : ""}`);
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.paint());
  }

  /** The picture, mirrored first and then turned, in its round window. */
  paint() {
    const { canvas, image } = this;
    const side = Math.round(canvas.clientWidth * (window.devicePixelRatio || 1));
    if (!side) return;
    if (canvas.width !== side) Object.assign(canvas, { width: side, height: side });
    const context = canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, side, side);
    if (!image) return;
    const { angle, mirror } = state.get();
    context.translate(side / 2, side / 2);
    context.rotate((-angle * Math.PI) / 180); // the canvas turns clockwise
    context.scale(mirror ? -1 : 1, 1);
    context.imageSmoothingQuality = "high";
    context.drawImage(image, -side / 2, -side / 2, side, side);
  }

  /** What each network sees, as a frame that does not turn. */
  outline() {
    const seen = (this.facts?.seen ?? []).map((one, model) => ({ ...one, model })).filter((one) => one.share && shown(this.about).includes(one.model));
    this.outlines.replaceChildren();
    if (!seen.length) return;
    const paths = seen.map((one) => frame(one));
    const largest = seen.reduce((best, one, i) => (one.share > seen[best].share ? i : best), 0);
    this.outlines.append(draw("path", { class: "veil", "fill-rule": "evenodd", d: `${circle(RADIUS)}${paths[largest]}` }));
    seen.forEach((one, i) => {
      const dashes = seen.length > 1 ? { "stroke-dasharray": `6 ${6 * (seen.length - 1)}`, "stroke-dashoffset": -6 * i } : {};
      this.outlines.append(draw("path", { class: `outline m${one.model}`, d: paths[i], ...dashes }));
    });
  }

  /** A ring for each network, marked where its decision is another than upright. */
  flips() {
    const models = shown(this.about);
    const { image } = state.get();
    this.rings = new Map();
    this.marks.replaceChildren(...models.map((model, i) => {
      const ring = draw("g");
      this.rings.set(model, [ring, TRACK + BETWEEN * i]);
      return ring;
    }));
    for (const model of models) if (image) this.mark(circleOf(model));
    const what = models.map((model) => this.about.models[model].kind).includes("map") ? "decision (or the class of pixels)" : "decision";
    const who = models.length > 1 ? "One thin ring for each network, from the inside out: " : "The thin ring: ";
    document.getElementById("legend").textContent = models.length ? `${who}marked where its ${what} differs from that of the upright picture; a dot is an exact turn, an arc an interpolated one.` : "";
  }

  mark(circle) {
    const { image, mirror } = state.get();
    const place = this.rings?.get(circle.model);
    if (!place || circle.image !== image || circle.mirror !== mirror) return;
    const [ring, radius] = place;
    const half = this.about.step / 2;
    const arcs = [...circle.answers.values()].filter((answer) => answer.changed).map((answer) => {
      const strength = Math.max(0.25, Math.sqrt(answer.changed));
      const [x, y] = direction(answer.angle);
      if (answer.exact) return draw("circle", { class: `flip exact m${circle.model}`, cx: radius * x, cy: radius * y, r: 2.4, opacity: strength });
      return draw("path", { class: `flip m${circle.model}`, d: arc(radius, answer.angle - half, answer.angle + half), "stroke-opacity": strength });
    });
    ring.replaceChildren(draw("circle", { class: "track", r: radius }), ...arcs);
  }
}

/** Of one image: what is known, and the picture of the stage. */
async function load(id, signal) {
  const path = `api/images/${encodeURIComponent(id)}`;
  const facts = await ask(path, {}, signal);
  return { facts, image: await picture(address(`${path}/stage.png`)) };
}

function rim() {
  const found = draw("g");
  found.append(draw("circle", { class: "rim", r: RADIUS }));
  for (let angle = 0; angle < 360; angle += 15) {
    const [x, y] = direction(angle);
    const isExact = angle % 90 === 0;
    const [from, to] = isExact ? [104, 113] : [108, 112];
    found.append(draw("line", { class: isExact ? "tick exact" : "tick", x1: from * x, y1: from * y, x2: to * x, y2: to * y }));
    if (!isExact) continue;
    const text = draw("text", { x: 123 * x, y: 119 * y });
    text.textContent = `${angle}°`;
    found.append(text);
  }
  return found;
}

function frame({ share, shape, size }) {
  const half = share * RADIUS;
  if (shape === "disc") return circle(half);
  const wide = size ? (half * size[1]) / size[0] : half;
  return `M${-wide} ${-half}H${wide}V${half}H${-wide}Z`;
}

function circle(radius) {
  return `M${radius} 0A${radius} ${radius} 0 1 0 ${-radius} 0A${radius} ${radius} 0 1 0 ${radius} 0Z`;
}

/** Counter-clockwise from one angle to another, at this radius. */
export function arc(radius, from, to) {
  const [x, y] = direction(from);
  const [u, v] = direction(to);
  const place = (a, b) => `${(radius * a).toFixed(2)} ${(radius * b).toFixed(2)}`;
  return `M${place(x, y)}A${radius} ${radius} 0 ${to - from > 180 ? 1 : 0} 0 ${place(u, v)}`;
}
