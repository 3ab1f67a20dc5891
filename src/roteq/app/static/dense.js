// Models that answer with a map: the map turned back, beside the upright one, and where they differ.

import { ask, newest } from "./api.js";
import { make, picture } from "./make.js";
import * as state from "./state.js";

const PARTS = [
  ["upright", "upright"],
  ["turned_back", "turned, then turned back"],
  ["difference", "where they differ"],
  ["map", "as it is given"],
];

export class Dense {
  constructor(model, index) {
    this.index = index;
    this.share = make("p", { class: "error" });
    this.trouble = make("p", { class: "trouble", role: "status", hidden: true });
    this.pictures = PARTS.map(([, text]) => make("figure", {}, make("div", { class: "map" }), make("figcaption", {}, text)));
    const title = make("h3", {}, `The map of ${model.name}`);
    this.element = make("div", { class: "dense" }, title, this.share);
    this.classes = make("ul", { class: "legend" });
    this.element.append(make("div", { class: "maps" }, ...this.pictures), this.classes, this.trouble);
    this.queue = newest(question, (found, wanted) => this.show(found, wanted), (error) => this.fail(error));
    this.asked = "";
  }

  ask() {
    const { image, angle, mirror } = state.get();
    const wanted = { model: this.index, image, angle, mirror };
    if (!image || JSON.stringify(wanted) === this.asked) return;
    this.asked = JSON.stringify(wanted);
    this.queue.ask(wanted);
  }

  show(found, { angle, mirror }) {
    PARTS.forEach(([part, text], i) => {
      found[part].alt = `Map, ${text}`;
      this.pictures[i].firstChild.replaceChildren(found[part]);
    });
    const number = make("span", { class: "changed-number" }, `${(100 * found.changed).toFixed(found.changed < 0.1 ? 1 : 0)}%`);
    const how = found.exact ? "exact: pixels permuted" : "interpolated, on the disc";
    const turned = `${angle}°${mirror ? ", mirrored" : ""}`;
    this.share.replaceChildren(number, ` of the pixels changed their class at ${turned} · ${how}`);
    this.classes.replaceChildren(...found.classes.map((name, k) => classKey(name, found.colours?.[k])));
    this.element.dataset.angle = angle;
    this.trouble.hidden = true;
  }

  fail(error) {
    this.asked = "";
    this.trouble.hidden = false;
    this.trouble.textContent = error.message;
  }
}

/** A class and its colour. */
function classKey(name, colour) {
  const swatch = make("span", { class: "key swatch", "aria-hidden": "true" });
  if (colour) swatch.style.background = colour;
  return make("li", {}, swatch, name);
}

async function question(wanted, signal) {
  const found = await ask("api/map", wanted, signal);
  const pictures = await Promise.all(PARTS.map(([part]) => picture(found[part])));
  PARTS.forEach(([part], i) => (found[part] = pictures[i]));
  return found;
}
