// Inside the network: two rings of feature maps that turn with the picture.

import { chosen, choices, key, written } from "./choice.js";
import { Dense } from "./dense.js";
import { make, whenSeen } from "./make.js";
import { Slot } from "./slot.js";
import * as state from "./state.js";
import { hasMirrors, stepOf, wholeAngles } from "./words.js";

const VIEWS = [["maps", "now"], ["expected", "expected"], ["difference", "difference"]];

/** Put the panel into the section, below its heading. */
export function mountInside(element, about) {
  const all = choices(about);
  const blind = about.models.filter((model) => !model.layers?.length).map((model) => model.name);
  const dense = about.models.flatMap((model, i) => (model.kind === "map" && !model.error ? [new Dense(model, i)] : []));
  const panel = all.length ? new Panel(about) : null;
  if (panel) element.append(panel.element);
  if (blind.length) element.append(make("p", { class: "small blind" }, unseen(blind)));
  element.append(...dense.map((one) => one.element));
  let isSeen = false;
  const ask = () => {
    if (!isSeen) return;
    panel?.ask();
    for (const one of dense) one.ask();
  };
  state.subscribe((view, changed) => {
    if (["layer", "feature"].some((name) => changed.has(name))) panel?.choose();
    panel?.buttons();
    ask();
  });
  whenSeen(element, (seen) => {
    isSeen = seen;
    ask();
  });
}

function unseen(names) {
  const who = names.length > 1 ? `${names.slice(0, -1).join(", ")} and ${names.at(-1)}` : names[0];
  const [has, it] = names.length > 1 ? ["have", "they are"] : ["has", "it is"];
  return `${who} ${has} no layers to look into: ${it} no PyTorch module whose layers give feature maps.`;
}

class Panel {
  constructor(about) {
    this.about = about;
    this.view = "maps";
    this.slots = [0, 1].map((i) => new Slot(about, i, (value) => this.chose(i, value)));
    this.inner = make("li", {}, "inner ring: mirrored");
    this.element = make("div", { class: "inside" }, this.toolbar(), legend(this.inner));
    this.element.append(make("div", { class: "slots" }, ...this.slots.map((slot) => slot.element)));
    this.choose();
    this.buttons();
  }

  toolbar() {
    const step = (text, label, by) => make("button", { type: "button", "aria-label": label, title: label, onclick: by }, text);
    const by = (n) => () => this.setFeature(Number(this.feature.value) + n);
    this.feature = make("input", { id: "feature", type: "number", min: 0, value: 0, onchange: by(0) });
    this.of = make("span", { class: "of" });
    const feature = make("div", { class: "stepper", role: "group", "aria-label": "Feature" },
      make("label", { htmlFor: "feature" }, "Feature"),
      step("‹", "previous feature", by(-1)), this.feature, step("›", "next feature", by(1)), this.of);
    this.snap = make("button", { type: "button", class: "snap", onclick: () => this.toElement(0) }, "Snap to the group");
    const turns = make("div", { class: "stepper", role: "group", "aria-label": "Turn by elements of the group" },
      step("↻", "one element clockwise", () => this.toElement(-1)), this.snap,
      step("↺", "one element counter-clockwise", () => this.toElement(1)));
    return make("div", { class: "tools" }, feature, turns, this.switch());
  }

  switch() {
    const radios = VIEWS.map(([value, text]) => {
      const radio = { type: "radio", name: "inside-view", value, checked: value === this.view, onchange: () => this.look(value) };
      return make("label", {}, make("input", radio), make("span", {}, text));
    });
    return make("fieldset", { class: "views" }, make("legend", {}, "Show"), ...radios);
  }

  /** Take the layers and the feature from the view. */
  choose() {
    this.pair = chosen(this.about, state.get().layer);
    const first = this.pair[0] ?? this.pair[1];
    const most = first ? first.info.features - 1 : 0;
    this.feature.max = most;
    this.feature.value = Math.max(0, Math.min(most, state.get().feature));
    this.of.textContent = `0 to ${most}`;
    this.inner.hidden = !this.pair.some((choice) => choice && hasMirrors(choice.info));
    this.slots.forEach((slot, i) => slot.choose(this.pair[i], Number(this.feature.value), this.view));
  }

  chose(i, value) {
    const all = choices(this.about);
    const pair = [...this.pair];
    pair[i] = all.find((choice) => key(choice) === value) ?? null;
    state.set({ layer: written(pair) });
  }

  setFeature(number) {
    const most = Number(this.feature.max);
    this.feature.value = Math.max(0, Math.min(most, Math.round(number) || 0));
    state.set({ feature: Number(this.feature.value) });
  }

  look(view) {
    this.view = view;
    for (const slot of this.slots) {
      slot.view = view;
      slot.paint().catch((error) => slot.fail(error));
    }
  }

  /** The layer whose group the buttons turn by: the first with more than the identity. */
  get layer() {
    const infos = this.pair.filter(Boolean).map((choice) => choice.info).filter((info) => info.group && stepOf(info) < 360);
    return infos.find((info) => info.representation !== "plain") ?? infos[0];
  }

  buttons() {
    const { layer } = this;
    const { angle, mirror } = state.get();
    const isThere = layer && wholeAngles(layer).includes(angle) && (!mirror || hasMirrors(layer));
    this.snap.disabled = !layer || isThere;
    this.snap.textContent = !layer ? "Snap to the group" : `${isThere ? "On" : "Snap to"} ${layer.group}`;
    for (const button of [this.snap.previousSibling, this.snap.nextSibling]) button.disabled = !layer;
  }

  /** Turn to the nearest element (0), or to the next one counter-clockwise (1) or clockwise (-1). */
  toElement(by) {
    const { angle, mirror } = state.get();
    const angles = wholeAngles(this.layer);
    const onward = (degrees) => ((degrees % 360) + 360) % 360;
    const away = by
      ? (target) => onward((target - angle) * by) || 360
      : (target) => Math.min(onward(target - angle), onward(angle - target));
    const target = angles.reduce((best, next) => (away(next) < away(best) ? next : best));
    state.set({ angle: target, mirror: by || hasMirrors(this.layer) ? mirror : 0 });
  }

  ask() {
    for (const slot of this.slots) slot.ask();
  }
}

function legend(inner) {
  const item = (kind, text) => make("li", {}, make("span", { class: `key ${kind}`, "aria-hidden": "true" }), text);
  return make("ul", { class: "legend" },
    item("home", "the first place, 0°"),
    item("moved", "where its map has to be now"),
    inner,
    make("li", {}, "Choose a place on a ring to turn the picture there."));
}
