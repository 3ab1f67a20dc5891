// The filter of a feature and its turned copies, one beside the other.

import { ask, newest } from "./api.js";
import { make, picture } from "./make.js";
import * as state from "./state.js";
import { number } from "./words.js";

export class Copies {
  constructor() {
    this.list = make("ul", { class: "copies" });
    this.note = make("p", { class: "small" });
    this.source = make("input", { type: "number", min: 0, value: 0, onchange: () => this.choose() });
    this.chooser = make("label", { class: "source" }, "reading input ", this.source);
    this.trouble = make("p", { class: "trouble", hidden: true });
    const title = make("p", { class: "over-copies" }, make("strong", {}, "The filter and its copies"), this.chooser);
    this.element = make("div", { class: "filter", hidden: true }, title, this.list, this.note, this.trouble);
    this.queue = newest(question, (found) => this.show(found), (error) => this.fail(error));
    this.asked = "";
  }

  /** Ask for these filters, unless they are shown already. */
  ask(choice, feature) {
    this.element.hidden = !choice?.info.has_filters;
    if (this.element.hidden) return;
    const wanted = { model: choice.model, layer: choice.info.path, feature, source: Math.max(0, state.get().source) };
    if (JSON.stringify(wanted) === this.asked) return;
    this.asked = JSON.stringify(wanted);
    this.queue.ask(wanted);
  }

  choose() {
    state.set({ source: Math.max(0, Math.min(Number(this.source.max) || 0, Math.round(Number(this.source.value)) || 0)) });
  }

  show({ found, sprite, source }) {
    const [height, width] = found.tile;
    const tiles = found.elements.map((element, i) => {
      const canvas = make("canvas", { width, height, "aria-hidden": "true" });
      canvas.getContext("2d").drawImage(sprite, -i * width, 0);
      return make("li", {}, canvas, make("span", {}, element.label));
    });
    this.list.replaceChildren(...tiles);
    const turns = found.elements.filter((element) => !element.mirror).length; // mirrored ones below their turns
    const columns = turns > 12 ? Math.ceil(turns / 2) : turns;
    this.list.style.setProperty("--columns", columns);
    this.list.style.setProperty("--columns-small", columns > 6 ? Math.ceil(columns / 2) : columns);
    this.source.max = Math.max(0, found.sources - 1);
    this.source.value = Math.min(source, found.sources - 1);
    this.chooser.hidden = found.sources < 2;
    const range = `Blue ${number(found.low)} to red ${number(found.high)}.`;
    this.note.textContent = [found.note, range].filter(Boolean).join(" ");
    this.trouble.hidden = true;
  }

  fail(error) {
    this.asked = "";
    this.trouble.hidden = false;
    this.trouble.textContent = error.message;
  }
}

async function question(wanted, signal) {
  const found = await ask("api/filters", wanted, signal);
  return { found, sprite: await picture(found.copies), source: wanted.source };
}
