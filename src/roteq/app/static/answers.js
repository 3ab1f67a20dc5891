// One card for each network: what it decides now, its probabilities, and the whole circle.

import { newest } from "./api.js";
import { answerAt, circleOf, follow, onCircle } from "./circles.js";
import { make } from "./make.js";
import { Polar } from "./polar.js";
import { shown, toggle } from "./shown.js";
import * as state from "./state.js";

const ROWS = 5; // classes with a bar
const CURVES = 3;
const MOST = 5000; // latencies that are kept

/** ms from a change of the angle to the bars of that angle, for each network: {model, angle, ms}. */
window.roteq = { latencies: [] };

/** Put the cards into the section; returns sentence(model), what a network says now. */
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
    follow(models.filter((model) => !about.models[model].error));
  };
  state.subscribe((view, changed) => {
    if (["image", "mirror", "models"].some((key) => changed.has(key))) sight();
    for (const card of cards) card.changed(changed);
  });
  onCircle((circle) => cards[circle.model].learn(circle));
  document.addEventListener("roteq:opened", ({ detail }) => cards.forEach((card) => card.know(detail.truth)));
  sight();
  for (const card of cards) card.changed(new Set(["image"]));
  return (model) => cards[model].sentence;
}

class Card {
  constructor(about, model) {
    this.model = model;
    this.facts = about.models[model];
    this.about = about;
    this.sentence = "";
    this.upright = null;
    this.decision = make("p", { class: "decision" });
    this.verdict = make("p", { class: "verdict" });
    this.bars = make("div", { class: "bars" });
    this.polar = new Polar(about.step);
    this.flips = make("p", { class: "flips" });
    this.failure = make("p", { class: "failure", role: "status", hidden: true });
    this.table = make("details", {}, make("summary", {}, "The numbers behind it"));
    this.table.addEventListener("toggle", () => this.tabulate(true));
    const hide = about.models.length > 1 ? make("button", { type: "button", class: "hide", onclick: () => toggle(about, model), "aria-label": `Hide ${this.facts.name}` }, "hide") : null;
    const group = this.facts.group ?? "no group";
    const head = make("div", { class: "card-head" }, make("h3", {}, this.facts.name), make("span", { class: "group" }, group), hide);
    this.body = make("div", {}, this.decision, this.verdict, this.bars, this.polar.element, this.flips, this.table);
    const notes = this.facts.notes?.length ? make("details", {}, make("summary", {}, "About this network"), ...this.facts.notes.map((note) => make("p", { class: "small" }, note))) : null;
    this.element = make("article", { class: "card", "data-model": model, "aria-label": this.facts.name }, head, this.failure, this.body, notes);
    this.said = make("span", { class: "what" });
    this.readout = make("li", { "data-of": model }, make("span", { class: "who" }, this.facts.name), this.said);
    this.queue = newest((view, signal) => answerAt(model, view, signal), (answer, view) => this.answered(answer, view), (error, view) => this.fail(error, view));
  }

  changed(keys) {
    if (!["image", "mirror", "angle", "models"].some((key) => keys.has(key))) return;
    const { image, mirror, angle } = state.get();
    if (keys.has("image")) this.open(image);
    if (!image || this.element.hidden || this.facts.error) return;
    if (keys.has("image") || keys.has("mirror") || keys.has("models")) this.learn(circleOf(this.model));
    this.since = performance.now();
    const known = circleOf(this.model).answers.get(angle);
    if (known) return this.show(known, this.since);
    this.element.classList.add("late");
    this.queue.ask({ image, mirror, angle, since: this.since });
  }

  /** Another image: nothing is known of it. */
  open(image) {
    this.answer = this.upright = this.truth = null;
    this.sentence = this.said.textContent = "";
    this.body.hidden = !image || Boolean(this.facts.error);
    this.failure.hidden = !this.facts.error;
    this.failure.textContent = this.facts.error ?? "";
    this.element.removeAttribute("data-angle");
    this.element.removeAttribute("data-ready");
    if (!image || this.facts.error) return;
    answerAt(this.model, { image, mirror: 0, angle: 0 }).then((found) => {
      if (image !== state.get().image) return;
      this.upright = found;
      if (this.answer) this.say(this.answer);
    }, () => {}); // the question about the angle says what is wrong
  }

  /** What the picture shows in truth, or null. */
  know(truth) {
    this.truth = truth;
    if (this.answer) this.say(this.answer);
  }

  isNow({ image, mirror, angle }) {
    const view = state.get();
    return image === view.image && mirror === view.mirror && angle === view.angle;
  }

  answered(answer, view) {
    const now = state.get();
    if (view.image !== now.image || view.mirror !== now.mirror) return;
    this.show(answer, view.since);
    if (!this.isNow(view)) this.element.classList.add("late");
  }

  fail(error, view) {
    if (view.image !== state.get().image) return;
    this.failure.hidden = false;
    this.failure.textContent = error.message;
    this.element.classList.remove("late");
  }

  /** The numbers of one angle. */
  show(answer, since) {
    const isNew = this.element.dataset.angle !== String(answer.angle) || this.answer?.mirror !== answer.mirror;
    this.answer = answer;
    this.failure.hidden = true;
    this.element.classList.remove("late");
    this.element.dataset.angle = answer.angle;
    this.rows();
    for (const row of this.bars.children) {
      const value = this.value(answer, Number(row.dataset.class));
      row.querySelector(".value").textContent = value === undefined ? "< " + Math.min(...Object.values(answer.values)).toFixed(3) : value.toFixed(3);
      row.querySelector(".fill").style.width = `${100 * Math.max(0, value ?? 0)}%`;
    }
    this.polar.point(answer.angle, this.curves().map((k) => this.curve(answer, k)));
    this.say(answer);
    if (!isNew) return;
    const { latencies } = window.roteq;
    latencies.push({ model: this.model, angle: answer.angle, ms: performance.now() - since });
    if (latencies.length > MOST) latencies.shift();
  }

  value(answer, k) {
    return answer.values[k];
  }

  /** What the circle draws of class k: of maps the share of pixels that changes. */
  curve(answer, k) {
    if (this.facts.kind === "map") return answer.changed;
    const value = this.value(answer, k);
    return value === undefined ? undefined : Math.max(0, value);
  }

  name(k) {
    if (this.facts.kind === "embedding") return "similarity to upright";
    return this.facts.classes[k] ?? `class ${k}`;
  }

  /** Classes by their largest value anywhere on the circle. */
  leading() {
    const best = new Map();
    const answers = [...circleOf(this.model).answers.values(), ...(this.answer ? [this.answer] : [])];
    for (const { values } of answers) for (const [k, value] of Object.entries(values)) best.set(Number(k), Math.max(value, best.get(Number(k)) ?? 0));
    return [...best].sort((a, b) => b[1] - a[1] || a[0] - b[0]).map(([k]) => k);
  }

  curves() {
    return this.facts.kind === "map" ? [0] : this.leading().slice(0, CURVES);
  }

  /** The rows of the bars; they are made again only where other classes lead. */
  rows() {
    const classes = this.leading().slice(0, ROWS);
    if (classes.join() === this.classes?.join()) return;
    this.classes = classes;
    this.bars.replaceChildren(...classes.map((k) => make("div", { "data-class": k },
      make("span", { class: "label", title: this.name(k) }, this.name(k)),
      make("span", { class: "track" }, make("span", { class: "fill" })),
      make("span", { class: "value" }))));
  }

  /** The decision in words, and whether it is that of the upright picture. */
  say(answer) {
    const where = `at ${answer.angle}°${answer.mirror ? ", mirrored" : ""}`;
    const { kind } = this.facts;
    this.decision.replaceChildren();
    this.verdict.replaceChildren();
    if (kind === "map") {
      this.decision.append(make("strong", {}, `${(100 * answer.changed).toFixed(1)}%`), make("span", { class: "sure" }, " of the pixels change"));
      this.verdict.append(`${where}, turned back and compared with the upright map; the bars are the share of each class`);
    } else if (kind === "embedding") {
      this.decision.append(make("strong", {}, answer.values[0].toFixed(3)), make("span", { class: "sure" }, " similar"));
      this.verdict.append(`${where}: the cosine between this embedding and that of the upright picture`);
    } else {
      const name = kind === "labels" ? this.labels(answer) : this.name(answer.decision);
      const sure = kind === "labels" ? "" : ` ${answer.values[answer.decision].toFixed(2)}`;
      this.decision.append(make("strong", {}, name), make("span", { class: "sure" }, sure));
      const before = this.upright && (kind === "labels" ? this.labels(this.upright) : this.name(this.upright.decision));
      if (answer.changed) this.verdict.append(make("span", { class: "mark" }, "↻ changed "), `${where}${before ? `; upright: ${before}` : ""}`);
      else this.verdict.append(answer.angle || answer.mirror ? `${where}, as upright` : "upright");
      if (kind === "classes" && this.facts.classes.includes(this.truth)) this.verdict.append(name === this.truth ? " · right" : ` · ✗ wrong, it is ${this.truth}`);
    }
    this.said.textContent = `${this.decision.textContent}${answer.changed === 1 ? " ↻" : ""}`;
    this.said.classList.toggle("is-changed", answer.changed === 1);
    this.sentence = `${this.facts.name}: ${this.decision.textContent}${answer.changed === 1 ? ", changed" : ""}.`;
  }

  labels(answer) {
    return Object.entries(answer.values).filter(([, p]) => p > 0.5).map(([k]) => this.name(Number(k))).join(", ") || "none";
  }

  /** More of the circle is known. */
  learn(circle) {
    const { image, mirror, angle } = state.get();
    if (circle.image !== image || circle.mirror !== mirror || !image) return;
    const answers = [...circle.answers.values()];
    const lines = this.curves().map((k) => ({
      name: this.facts.kind === "map" ? "share of the pixels that change" : this.name(k),
      at: new Map(answers.filter((a) => this.curve(a, k) !== undefined).map((a) => [a.angle, this.curve(a, k)])),
    }));
    const isDecided = !["map", "embedding"].includes(this.facts.kind);
    this.polar.show(lines, isDecided ? answers.filter((a) => a.changed).map((a) => a.angle) : [], `${this.facts.name}: ${lines.map((line) => line.name).join(", ")} at every angle`);
    this.flips.replaceChildren(...this.summary(circle));
    if (circle.isDone) this.element.dataset.ready = "true";
    else this.element.removeAttribute("data-ready");
    this.tabulate(false);
    const known = circle.answers.get(angle);
    if (known && this.element.dataset.angle !== String(angle)) this.show(known, this.since);
    else if (this.answer) this.show(this.answer, this.since);
  }

  summary(circle) {
    if (circle.error) return [`The circle stopped: ${circle.error}`];
    if (!circle.isDone) return [`The circle: ${circle.answers.size} of ${360 / this.about.step} angles…`];
    const { summary } = circle;
    const percent = (x) => (x === null || x === undefined ? "–" : `${(100 * x).toFixed(1)}%`);
    if (summary.exact_changed !== undefined) return ["Pixels that change: exact turns ", make("b", {}, percent(summary.exact_changed)), ", other angles ", make("b", {}, percent(summary.interpolated_changed)), " (interpolated)."];
    if (summary.exact_similarity !== undefined) return ["Mean similarity: exact turns ", make("b", {}, summary.exact_similarity?.toFixed(3) ?? "–"), ", other angles ", make("b", {}, summary.interpolated_similarity?.toFixed(3) ?? "–"), " (interpolated)."];
    const [[k, n], [l, m]] = [summary.exact_flips, summary.interpolated_flips];
    return ["Exact turns: ", make("b", {}, `${k} of ${n}`), " change the decision. Other angles: ", make("b", {}, `${l} of ${m}`), " (interpolated)."];
  }

  /** The table behind the circle: always in the page, filled when the circle is complete or when it is opened. */
  tabulate(isAsked) {
    const circle = circleOf(this.model);
    if (!circle.isDone && !(isAsked && this.table.open)) return;
    const classes = this.leading().slice(0, ROWS);
    const key = JSON.stringify([circle.image, circle.mirror, circle.answers.size]);
    if (this.tabulated === key) return;
    this.tabulated = key;
    const isDecided = this.facts.kind === "classes";
    const head = make("tr", {}, ...["angle", ...(isDecided ? ["decision"] : []), ...classes.map((k) => this.name(k)), ...(isDecided ? [] : ["changed"])].map((text, i) => make("th", { scope: "col", class: i ? "" : "n" }, text)));
    const rows = [...circle.answers.values()].sort((a, b) => a.angle - b.angle).map((answer) => {
      const changed = answer.changed === null ? "–" : this.facts.kind === "map" ? answer.changed.toFixed(3) : answer.changed ? "yes" : "no";
      const decision = isDecided ? [make("td", {}, `${this.name(answer.decision)}${answer.changed ? " (changed)" : ""}`)] : [];
      const cells = classes.map((k) => make("td", { class: "n" }, answer.values[k]?.toFixed(3) ?? "–"));
      return make("tr", {}, make("td", { class: "n" }, `${answer.angle}°${answer.exact ? " exact" : ""}`), ...decision, ...cells, ...(isDecided ? [] : [make("td", {}, changed)]));
    });
    const caption = make("caption", {}, `What ${this.facts.name} says at every angle`);
    const table = make("table", {}, caption, make("thead", {}, head), make("tbody", {}, ...rows));
    this.table.replaceChildren(this.table.firstChild, make("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": "Numbers" }, table));
  }
}
