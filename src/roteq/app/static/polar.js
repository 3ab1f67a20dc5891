// The probability of a few classes around the circle: computed once, drawn with a moving hand.

import { direction } from "./layout.js";
import { draw, make } from "./make.js";
import { arc } from "./stage.js";

const RADIUS = 70;
const NAMES = [0.5, 1];

export class Polar {
  constructor(step) {
    this.step = step;
    this.grid = draw("g");
    this.curves = draw("g");
    this.hand = draw("g");
    this.svg = draw("svg", { viewBox: "-98 -90 196 180", role: "img" }, this.grid, this.curves, this.hand);
    this.key = make("ul", { class: "curves" });
    this.element = make("div", { class: "around" }, make("div", { class: "polar" }, this.svg), this.key);
    this.lines = [];
    for (const share of NAMES) {
      const text = draw("text", { x: 0.707 * share * RADIUS + 5, y: 0.707 * share * RADIUS + 3 });
      text.textContent = share;
      this.grid.append(draw("circle", { class: "grid", r: share * RADIUS }), text);
    }
    for (const angle of [0, 90, 180, 270]) {
      const [x, y] = direction(angle);
      const text = draw("text", { x: 88 * x, y: 84 * y });
      text.textContent = `${angle}°`;
      this.grid.append(draw("line", { class: "grid", x2: RADIUS * x, y2: RADIUS * y }), text);
    }
  }

  /** lines: [{name, at: Map angle -> value in 0..1}]; flips: answers that are marked, exact ones by a dot. */
  show(lines, flips, label) {
    this.lines = lines;
    const half = this.step / 2;
    const marks = flips.map(({ angle, exact }) => exact ? dot("flipped exact", 2.6, angle, 1 + 4 / RADIUS)
      : draw("path", { class: "flipped", d: arc(RADIUS + 4, angle - half, angle + half) }));
    const dots = [0, 90, 180, 270].filter((angle) => lines[0]?.at.has(angle)).map((angle) => dot("dot", 2.6, angle, lines[0].at.get(angle)));
    this.curves.replaceChildren(...marks, ...lines.map((line, i) => draw("path", { class: `curve c${i}`, d: this.path(line.at) })).reverse(), ...dots);
    this.key.replaceChildren(...lines.map((line, i) => make("li", { title: line.name }, sample(i), line.name)));
    this.svg.setAttribute("aria-label", label);
  }

  /** The hand at one angle; values: of the lines, where they are known. */
  point(angle, values) {
    const [x, y] = direction(angle);
    const dots = values.filter((value) => value !== undefined).map((value) => dot("now", 3, angle, value));
    this.hand.replaceChildren(draw("line", { class: "hand", x2: (RADIUS + 7) * x, y2: (RADIUS + 7) * y }), ...dots);
  }

  /** Neighbouring angles that are both known are joined. */
  path(at) {
    const angles = [...at.keys()].sort((a, b) => a - b);
    let path = "";
    angles.forEach((angle, i) => {
      const isJoined = i && angle - angles[i - 1] <= this.step;
      path += `${isJoined ? "L" : "M"}${place(angle, at.get(angle))}`;
    });
    const isRound = angles.length > 2 && angles[0] + 360 - angles.at(-1) <= this.step;
    return isRound ? `${path}L${place(angles[0], at.get(angles[0]))}` : path;
  }
}

function place(angle, value) {
  const [x, y] = direction(angle);
  return `${(RADIUS * value * x).toFixed(2)} ${(RADIUS * value * y).toFixed(2)}`;
}

function dot(kind, r, angle, value) {
  const [cx, cy] = place(angle, value).split(" ");
  return draw("circle", { class: kind, cx, cy, r });
}

function sample(i) {
  return draw("svg", { viewBox: "0 0 26 10", "aria-hidden": "true", class: "polar" }, draw("path", { class: `curve c${i}`, d: "M0 5H26" }));
}
