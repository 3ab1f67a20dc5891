// Which networks are shown.

import * as state from "./state.js";

/** Their indices: those of the view, or all. */
export function shown(about, view = state.get()) {
  const all = about.models.map((_, i) => i);
  const chosen = view.models.filter((i) => i < all.length);
  return chosen.length ? chosen : all;
}

/** Show or hide one; the last one stays. */
export function toggle(about, model) {
  const now = shown(about);
  const next = now.includes(model) ? now.filter((i) => i !== model) : [...now, model].sort();
  if (next.length) state.set({ models: next.length === about.models.length ? [] : next });
}
