// One of the two rings: which layer, its maps at the angle of the page, the error, the filters, the numbers.

import { ask, newest } from "./api.js";
import { described, key, layerSelect } from "./choice.js";
import { Copies } from "./copies.js";
import { make, picture } from "./make.js";
import { Ring } from "./ring.js";
import * as state from "./state.js";
import { known, law, number, under, verdict } from "./words.js";

const ROUNDING = 1e-4; // of the range of the maps: smaller differences are not stretched over all colours

export class Slot {
  /** chose(value): the person chose another layer in the select. */
  constructor(about, index, chose) {
    this.about = about;
    this.select = layerSelect(about, `layer-${index}`, chose);
    this.ring = new Ring(`ring-${index}`, turn);
    this.law = make("p", { class: "law" });
    this.error = make("p", { class: "error" });
    this.scale = make("p", { class: "scale" });
    this.trouble = make("p", { class: "trouble", role: "status", hidden: true });
    this.numbers = make("details", { class: "numbers" }, make("summary", {}, "The numbers behind it"));
    this.numbers.addEventListener("toggle", () => this.tabulate());
    this.copies = new Copies();
    const label = make("label", { class: "layer" }, make("span", {}, index ? "Beside it" : "Layer"), this.select);
    this.shown = make("div", { class: "shown" }, this.law, this.ring.element, this.scale, this.error);
    this.element = make("div", { class: "slot", role: "group", "aria-label": index ? "Second layer" : "First layer" });
    this.element.append(label, this.shown, this.trouble, this.copies.element, this.numbers);
    this.queue = newest(question, (found, asked) => this.answered(found, asked), (error) => this.fail(error));
    this.choice = null;
    this.found = null;
  }

  /** The layer and feature to show; the maps come when `ask` is called. */
  choose(choice, feature, view) {
    this.choice = choice;
    this.view = view;
    this.select.value = key(choice);
    this.feature = choice ? Math.max(0, Math.min(feature, choice.info.features - 1)) : 0;
    this.shown.hidden = this.numbers.hidden = !choice;
    if (!choice) this.trouble.hidden = this.copies.element.hidden = true;
    if (choice) this.element.dataset.colour = choice.model;
  }

  /** Ask for the maps of the view; nothing is asked twice. */
  ask() {
    const { image, angle, mirror } = state.get();
    if (!this.choice || !image) return;
    this.copies.ask(this.choice, this.feature);
    const wanted = { model: this.choice.model, image, angle, mirror, layer: this.choice.info.path, feature: this.feature };
    if (!this.found) this.law.textContent = law(this.choice.info, angle, mirror);
    if (JSON.stringify(wanted) === this.asked) return;
    this.asked = JSON.stringify(wanted);
    this.element.classList.add("late");
    this.queue.ask({ wanted, info: this.choice.info });
  }

  answered(found, { wanted, info }) {
    this.found = { ...found, wanted, info };
    if (JSON.stringify(wanted) === this.asked) this.element.classList.remove("late");
    this.trouble.hidden = true;
    this.shown.hidden = !this.choice;
    this.paint().catch((error) => this.fail(error));
  }

  /** Draw what is known, in the view that is chosen: "maps", "expected" or "difference". */
  async paint() {
    const { found } = this;
    if (!found || !this.choice) return;
    const view = found[this.view] ? this.view : "maps";
    found.sprites ??= {};
    found.sprites[view] ??= await picture(found[view]);
    if (found !== this.found) return;
    const { angle, mirror } = found.wanted;
    this.law.textContent = law(found.info, angle, mirror);
    this.ring.show({
      ...found, angle, mirror, sprite: found.sprites[view], input: found.inputPicture,
      moved: found.elements.length > 1 ? found.error?.element ?? null : null, label: this.spoken(found, view),
    });
    this.describe(found, view);
    this.tabulate();
  }

  describe(found, view) {
    const { angle, mirror } = found.wanted;
    const [h, w] = found.tile;
    const isDifference = view === "difference";
    const low = isDifference ? 0 : found.low;
    const high = isDifference ? Math.max(found.largest_difference, ROUNDING * (found.high - found.low)) : found.high;
    const difference = isRounding(found) ? "Difference, nothing but rounding" : "Difference of the two";
    const what = { maps: "Maps now", expected: "Maps expected", difference }[view];
    const disc = Ring.isDisc(found.tile) && found.elements.length > 1 ? ", inscribed disc" : "";
    const where = `feature ${found.feature} at ${angle}°${mirror ? ", mirrored" : ""}, ${w} × ${h} pixels${disc}`;
    const ramp = make("span", { class: isDifference ? "ramp difference" : "ramp", "aria-hidden": "true" });
    const missing = this.view === view ? "" : ` (no ${this.view} maps here)`;
    const range = make("span", { class: "range" }, number(low), ramp, number(high));
    this.scale.replaceChildren(make("span", {}, `${what}${missing}: ${where}`), range);
    const { error } = found;
    const strong = known(error.between) ? [make("span", { class: "error-number" }, number(error.between)), " "] : [];
    const rest = make("span", { class: "under" }, under(error));
    this.error.replaceChildren(...strong, make("span", { class: "verdict-words" }, verdict(error)), rest);
  }

  /** What the picture says, for those who don't see it. */
  spoken(found, view) {
    const maps = { maps: "Feature maps", expected: "Expected maps", difference: "Differences" }[view];
    const places = found.elements.length > 1 ? `on a ring of ${found.elements.length} places` : "in one place";
    const name = this.about.models[found.wanted.model].name;
    const which = `feature ${found.feature}, ${name}, layer ${found.layer} (${described(found.info)})`;
    return `${maps} of ${which}, ${places}. ${this.law.textContent}`;
  }

  /** The table behind the ring; built only while it is open. */
  tabulate() {
    const { found, numbers } = this;
    if (!numbers.open || !found?.table) return;
    const heads = ["Element", "Mean", "Largest"].map((text, i) => make("th", { scope: "col", class: i ? "n" : "" }, text));
    const rows = found.table.map(([label, mean, largest]) =>
      make("tr", {}, make("th", { scope: "row" }, label), ...[mean, largest].map((x) => make("td", { class: "n" }, number(x)))),
    );
    const caption = make("caption", {}, `Feature ${found.feature} at ${found.wanted.angle}°`);
    const table = make("table", {}, caption, make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...rows));
    numbers.querySelector("div")?.remove();
    numbers.append(make("div", {}, found.error.note ? make("p", { class: "small" }, `${found.error.note}.`) : null, table));
  }

  fail(error) {
    this.asked = "";
    this.shown.hidden = !this.found;
    this.trouble.hidden = false;
    this.trouble.textContent = error.message;
  }
}

/** Whether the maps are those expected up to the rounding of 32-bit floats. */
function isRounding({ largest_difference: largest, low, high }) {
  return known(largest) && largest <= ROUNDING * (high - low);
}

/** Turn the picture to the place of an element, where whole degrees reach it. */
function turn(element) {
  if (Number.isInteger(+element.angle.toFixed(6))) state.set({ angle: element.angle, mirror: element.mirror ? 1 : 0 });
}

async function question({ wanted }, signal) {
  const found = await ask("api/inside", wanted, signal);
  found.inputPicture = found.input ? await picture(found.input) : null;
  return found;
}
