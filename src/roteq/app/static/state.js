// The view, all of it, in the address of the page: a copied link restores it, and two browsers never share it.

const DEFAULTS = { image: "", angle: 0, mirror: 0, models: "", layer: "", feature: 0, source: 0, sort: "flips", by: 0 };
const WAIT = 200; // ms between two writes of the address; browsers refuse more than 100 in 10 s
const listeners = new Set();
let view = read();
let timer = 0;

/** The view now. Numbers are numbers; models is a list of the indices shown, [] for all; layer is "model:path". */
export function get() {
  return view;
}

/** Change some of it; every listener hears (view, changed keys). */
export function set(change) {
  const next = { ...view, ...change };
  next.angle = whole(next.angle);
  const changed = Object.keys(next).filter((key) => String(next[key]) !== String(view[key]));
  if (!changed.length) return;
  view = next;
  for (const listener of listeners) listener(view, new Set(changed));
  if (!timer) timer = setTimeout(write, WAIT);
}

/** Whole degrees from 0 to 359. */
export function whole(angle) {
  return ((Math.round(angle) % 360) + 360) % 360;
}

/** listener(view, Set of changed keys); returns a function that ends it. */
export function subscribe(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** Tell the person what went wrong; an empty text takes the message away. */
export function complain(text) {
  document.dispatchEvent(new CustomEvent("roteq:complain", { detail: text }));
}

/** Say something to a screen reader. */
export function say(text) {
  document.dispatchEvent(new CustomEvent("roteq:said", { detail: text }));
}

/** The address of this view. */
export function link() {
  const words = new URLSearchParams();
  for (const [key, value] of Object.entries(view)) {
    const text = String(value);
    if (text !== String(DEFAULTS[key])) words.set(key, text);
  }
  return `${location.pathname}#${words}`;
}

function read() {
  const words = new URLSearchParams(location.hash.slice(1));
  const found = {};
  for (const [key, value] of Object.entries(DEFAULTS)) {
    const text = words.get(key);
    if (typeof value !== "number") found[key] = text ?? value;
    else found[key] = Number.isFinite(Number(text)) ? Math.round(Number(text)) : value;
  }
  found.angle = whole(found.angle);
  found.mirror = found.mirror ? 1 : 0;
  found.models = found.models.split(",").filter((part) => /^\d$/.test(part)).map(Number);
  return found;
}

function write() {
  timer = 0;
  history.replaceState(null, "", link());
}

addEventListener("hashchange", () => set(read()));
