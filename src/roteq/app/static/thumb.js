// One image of the gallery: a button that is filled in again when its numbers change.

import { make } from "./make.js";

/** A button with empty places for everything, so that nothing moves when numbers come. */
export function thumb(item) {
  const parts = {
    picture: make("img", { width: 96, height: 96, loading: "lazy", decoding: "async", alt: "" }),
    name: make("span", { class: "thumb-name" }),
    truth: make("span", { class: "thumb-truth" }),
    answer: make("span", { class: "thumb-answer" }),
    flips: make("span", { class: "thumb-flips" }),
  };
  parts.picture.src = `api/images/${encodeURIComponent(item.id)}/thumb.png`;
  parts.name.textContent = parts.name.title = item.name;
  const button = make("button", { type: "button", class: "thumb", "data-image": item.id, tabIndex: -1 });
  button.append(parts.picture, parts.name, parts.answer, parts.truth, parts.flips);
  button.parts = parts;
  return button;
}

/** Write what one model says of the image. */
export function fill(button, item, model) {
  const answer = item.models?.[model] ?? null;
  const text = JSON.stringify([item.truth, answer]);
  if (button.written === text) return;
  button.written = text;
  const { parts } = button;
  const isRight = answer?.wrong === false;
  parts.truth.textContent = item.truth === null ? "" : isRight ? "right" : `truth: ${item.truth}`;
  parts.truth.title = item.truth === null ? "" : `truth: ${item.truth}`;
  button.classList.toggle("is-wrong", Boolean(answer?.wrong));
  parts.answer.replaceChildren(...decided(answer));
  parts.flips.replaceChildren(...flips(answer));
  button.setAttribute("aria-label", spoken(item, answer));
}

function decided(answer) {
  if (!answer) return [make("span", { class: "waiting" }, "not judged yet")];
  if (answer.error) return [make("span", { class: "failed", title: answer.error }, "failed")];
  if (answer.decision === null) return [];
  const mark = answer.wrong ? [make("span", { class: "thumb-wrong", title: "not the truth" }, "✗ ")] : [];
  const sure = answer.confidence === null ? "" : ` ${percent(answer.confidence)}`;
  const decision = make("span", { class: "thumb-decision", title: answer.decision }, answer.decision);
  return [...mark, decision, make("span", { class: "thumb-sure" }, sure)];
}

function flips(answer) {
  if (!answer || answer.error) return [];
  if (!answer.exact_flips && known(answer.changed)) {
    const both = [answer.exact_changed, answer.interpolated_changed].map((x) => (known(x) ? percent(x) : "–"));
    const text = known(answer.exact_changed) ? both.join(" · ") : percent(answer.changed);
    const title = "share of the pixels that change their class, mean over the turns: exact · interpolated";
    return [make("span", { title }, `${text} changes`)];
  }
  const parts = [];
  for (const [kind, key] of [["exact", "exact_flips"], ["interpolated", "interpolated_flips"]]) {
    if (!answer[key]) continue;
    const [k, n] = answer[key];
    if (parts.length) parts.push(" · ");
    parts.push(make("span", { class: k ? "some" : "none", title: `${k} of ${n} ${kind} turns change the decision` }, `${k}/${n}`));
  }
  return parts;
}

function spoken(item, answer) {
  const words = [item.name];
  if (item.truth !== null) words.push(`truth ${item.truth}`);
  if (!answer) return [...words, "not judged yet"].join(", ");
  if (answer.error) return [...words, answer.error].join(", ");
  const sure = answer.confidence === null ? "" : ` ${percent(answer.confidence)}`;
  if (answer.decision !== null) words.push(`decision ${answer.decision}${sure}`);
  if (answer.wrong) words.push("wrong");
  if (answer.exact_flips) words.push(`${answer.exact_flips.join(" of ")} exact turns change it`);
  if (answer.interpolated_flips) words.push(`${answer.interpolated_flips.join(" of ")} interpolated turns change it`);
  return words.join(", ");
}

function known(value) {
  return value !== null && value !== undefined;
}

function percent(share) {
  const text = (100 * share).toFixed(share > 0 && share < 0.01 ? 1 : 0);
  return text === "100" && share < 1 ? ">99%" : `${text}%`;
}
