// The keys of the page, and what it says to the ear.

import { shown, toggle } from "./shown.js";
import * as state from "./state.js";

const ACROSS = { ArrowRight: 1, ArrowLeft: -1 };
const ALONG = { ArrowUp: 1, ArrowDown: -1, PageUp: 15, PageDown: -15 }; // elsewhere they scroll the page
const SETTLED = 650; // ms without a turn before the decisions are said
const PATIENCE = 30; // times that long for a network that thinks
const byId = (id) => document.getElementById(id);

/** Connect the keys; turn(angle), player.toggle() and step(by) do what they say. */
export function listen(about, turn, player, step) {
  const actions = {
    m: () => byId("mirror").click(),
    n: () => step(1),
    p: () => step(-1),
    g: () => byId("gallery").scrollIntoView(),
    "?": () => list(),
    " ": () => player.toggle(),
  };
  addEventListener("keydown", (event) => {
    const { key, target } = event;
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || isWritten(target)) return;
    if (key === " " && target.closest?.("button, summary, a, [role=region]")) return;
    const isTurner = target.id === "dial" || target.id === "angle";
    const by = ACROSS[key] ?? (isTurner ? ALONG[key] : undefined);
    if (by && !target.closest?.("[role=region]")) turn(state.get().angle + (event.shiftKey && Math.abs(by) === 1 ? 15 * by : by));
    else if (key === "Home" && isTurner) turn(0);
    else if (/^[1-4]$/.test(key) && about.models.length > 1 && Number(key) <= about.models.length) toggle(about, Number(key) - 1);
    else if (actions[key]) actions[key]();
    else return;
    event.preventDefault();
  });
}

/** The decisions, said once when the picture has come to rest and every network has answered. */
export function speak(about, sentence) {
  let timer = 0;
  const say = (patience) => {
    const { angle, mirror, image } = state.get();
    if (!image) return;
    const sentences = shown(about).map((model) => [model, sentence(model)]);
    if (patience && sentences.some(([, words]) => words === null)) {
      timer = setTimeout(say, SETTLED, patience - 1);
      return;
    }
    const words = sentences.map(([model, said]) => said ?? `${about.models[model].name}: no answer yet.`);
    state.say(`${angle} degrees${mirror ? ", mirrored" : ""}. ${words.join(" ")}`);
  };
  state.subscribe((view, changed) => {
    if (!["angle", "mirror", "image"].some((key) => changed.has(key))) return;
    clearTimeout(timer);
    timer = setTimeout(say, SETTLED, PATIENCE);
  });
}

/** Where keys write or choose something else. */
function isWritten(target) {
  return Boolean(target.closest?.("select, textarea, input:not([type=range]), [contenteditable], [data-image]"));
}

function list() {
  const keys = byId("keys");
  keys.open = !keys.open;
  if (keys.open) keys.scrollIntoView({ block: "nearest" });
}
