// The table behind a circle, and the sentence under it.

import { make } from "./make.js";

/** What the circle of a network comes to: exact and interpolated turns are never one number. */
export function summary(circle, step) {
  if (circle.error) return [`The circle stopped: ${circle.error}`];
  if (!circle.isDone) return [`The circle: ${circle.answers.size} of ${360 / step} angles…`];
  const found = circle.summary;
  if (found.exact_changed !== undefined) return twice("Pixels that change", percent(found.exact_changed), percent(found.interpolated_changed));
  if (found.exact_similarity !== undefined) return twice("Mean similarity", fixed(found.exact_similarity), fixed(found.interpolated_similarity));
  const [[k, n], [l, m]] = [found.exact_flips, found.interpolated_flips];
  return ["Exact turns: ", make("b", {}, `${k} of ${n}`), " change the decision. Other angles: ", make("b", {}, `${l} of ${m}`), " (interpolated)."];
}

/** Every angle that is known, in a box that scrolls; facts: of the network; named(k): the name of a class. */
export function table(answers, facts, classes, named) {
  const isDecided = facts.kind === "classes";
  const words = ["angle", ...(isDecided ? ["decision"] : []), ...classes.map(named), ...(isDecided ? [] : ["changed"])];
  const isWord = (i) => i === 0 || (isDecided ? i === 1 : i === words.length - 1);
  const head = make("tr", {}, ...words.map((text, i) => make("th", { scope: "col", class: isWord(i) ? "" : "n" }, text)));
  const rows = [...answers].sort((a, b) => a.angle - b.angle).map((answer) => {
    const decision = isDecided ? [make("td", {}, `${named(answer.decision)}${answer.changed ? " (changed)" : ""}`)] : [];
    const cells = classes.map((k) => make("td", { class: "n" }, fixed(answer.values[k])));
    const changed = isDecided ? [] : [make("td", {}, share(answer.changed, facts.kind))];
    const angle = make("th", { scope: "row" }, `${answer.angle}°${answer.exact ? " exact" : ""}`);
    return make("tr", {}, angle, ...decision, ...cells, ...changed);
  });
  const caption = make("caption", {}, `What ${facts.name} says at every angle`);
  const found = make("table", {}, caption, make("thead", {}, head), make("tbody", {}, ...rows));
  return make("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": `Numbers of ${facts.name}` }, found);
}

/** A share as "1.2%", unknown as a dash. */
export function percent(x) {
  return isKnown(x) ? `${(100 * x).toFixed(1)}%` : "–";
}

/** A probability for a sentence. */
export function sure(x) {
  return x.toFixed(x < 0.01 ? 3 : 2);
}

function fixed(x) {
  return isKnown(x) ? x.toFixed(3) : "–";
}

function share(changed, kind) {
  if (!isKnown(changed)) return "–";
  return kind === "map" ? changed.toFixed(3) : changed ? "yes" : "no";
}

function twice(what, exact, interpolated) {
  return [`${what}: exact turns `, make("b", {}, exact), ", other angles ", make("b", {}, interpolated), " (interpolated)."];
}

function isKnown(x) {
  return x !== null && x !== undefined;
}
