// The cards of the networks: which are shown, and what each of them says aloud.

import { Card } from "./card.js";
import { circleOf, follow, onCircle } from "./circles.js";
import { make } from "./make.js";
import { shown, toggle } from "./shown.js";
import * as state from "./state.js";

/** ms from a change of the angle to the bars of that angle, for each network: {model, angle, ms}. */
window.roteq = { latencies: [] };

/** Put the cards into the section; returns sentence(model): what a network says now, null while it thinks. */
export function mountAnswers(about) {
  const cards = about.models.map((_, model) => new Card(about, model));
  document.getElementById("cards").append(...cards.map((card) => card.element));
  document.getElementById("readout").append(...cards.map((card) => card.readout));
  const sight = () => {
    const models = shown(about);
    for (const card of cards) card.element.hidden = card.readout.hidden = !models.includes(card.model);
    const hidden = cards.filter((card) => card.element.hidden).map((card) =>
      make("button", { type: "button", onclick: () => toggle(about, card.model) }, `Show ${about.models[card.model].name}`));
    document.getElementById("hidden-models").replaceChildren(...hidden);
  };
  const change = (keys) => {
    const isOther = ["image", "mirror", "models"].some((key) => keys.has(key)); // other circles
    if (isOther) sight();
    for (const card of cards) card.changed(keys);
    if (!isOther) return;
    const models = shown(about).filter((model) => !about.models[model].error);
    follow(models);
    for (const model of models) cards[model].learn(circleOf(model));
  };
  state.subscribe((view, changed) => change(changed));
  onCircle((circle) => cards[circle.model].learn(circle));
  document.addEventListener("roteq:opened", ({ detail }) => cards.forEach((card) => card.know(detail.truth)));
  change(new Set(["image"]));
  return (model) => cards[model].sentence();
}
