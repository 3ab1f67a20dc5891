// One card: what a network decides now, its probabilities, and the whole circle.

import { newest } from "./api.js";
import { answerAt, circleOf } from "./circles.js";
import { make } from "./make.js";
import { percent, summary, sure, table } from "./numbers.js";
import { Polar } from "./polar.js";
import { toggle } from "./shown.js";
import * as state from "./state.js";

const ROWS = 5; // classes with a bar
const CURVES = 3;
const MOST = 5000; // latencies that are kept

export class Card {
  constructor(about, model) {
    this.model = model;
    this.about = about;
    this.facts = about.models[model];
    this.answer = this.upright = this.truth = null;
    this.build();
    this.queue = newest((view, signal) => answerAt(model, view, signal),
      (answer, view) => this.answered(answer, view), (error, view) => this.fail(error, view));
  }

  build() {
    const { name, group, notes, kind } = this.facts;
    const hides = this.about.models.length > 1;
    const hide = hides ? make("button", { type: "button", class: "hide", "aria-label": `Hide ${name}`, onclick: () => toggle(this.about, this.model) }, "hide") : null;
    const head = make("div", { class: "card-head" }, make("h3", {}, name), make("span", { class: "group" }, group ?? "no group"), hide);
    this.decision = make("p", { class: "decision" });
    this.verdict = make("p", { class: "verdict" });
    this.bars = make("div", { class: "bars", role: "group", "aria-label": kind === "map" ? "Share of the area" : "Probabilities" });
    this.polar = new Polar(this.about.step);
    this.flips = make("p", { class: "flips" });
    this.table = make("details", {}, make("summary", {}, "The numbers behind it"));
    this.table.addEventListener("toggle", () => this.tabulate(true));
    this.failure = make("p", { class: "failure", role: "status", hidden: true });
    this.waiting = make("p", { class: "small" }, "Its answer stands here once there is a picture.");
    this.body = make("div", { class: "body" }, this.decision, this.verdict, this.bars, this.polar.element, this.flips, this.table);
    const more = notes?.length ? make("details", {}, make("summary", {}, "About this network"), ...notes.map((note) => make("p", { class: "small" }, note))) : null;
    this.element = make("article", { class: "card", "data-model": this.model, "aria-label": name }, head, this.failure, this.waiting, this.body, more);
    this.said = make("span", { class: "what" });
    this.readout = make("li", { "data-of": this.model }, make("span", { class: "who" }, name), this.said);
  }

  changed(keys) {
    if (!["image", "mirror", "angle", "models"].some((key) => keys.has(key))) return;
    const { image, mirror, angle } = state.get();
    if (keys.has("image")) this.open(image);
    if (!image || this.element.hidden || this.facts.error) return;
    this.since = performance.now();
    const known = circleOf(this.model).at(angle);
    if (known) return this.show(known, this.since);
    if (keys.has("mirror")) this.element.removeAttribute("data-angle");
    this.fade();
    if (!this.isNow()) this.queue.ask({ image, mirror, angle, since: this.since });
  }

  /** Another image: nothing is known of it. */
  open(image) {
    this.answer = this.upright = this.truth = null;
    for (const part of [this.said, this.decision, this.verdict, this.flips]) part.textContent = "";
    this.body.hidden = !image || Boolean(this.facts.error);
    this.failure.hidden = !this.facts.error;
    this.failure.textContent = this.facts.error ?? "";
    this.waiting.hidden = Boolean(image || this.facts.error);
    this.element.removeAttribute("data-angle");
    this.element.removeAttribute("data-ready");
    if (!image || this.facts.error) return;
    answerAt(this.model, { image, mirror: 0, angle: 0 }).then((found) => {
      if (image !== state.get().image) return;
      this.upright = found;
      if (this.answer) this.say();
    }, () => {}); // the question about the angle says what is wrong
  }

  /** What the picture shows in truth, or null. */
  know(truth) {
    this.truth = truth;
    if (this.answer) this.say();
  }

  /** Whether the numbers in the card are those of the view. */
  isNow() {
    const { mirror, angle } = state.get();
    return this.answer !== null && this.answer.angle === angle && this.answer.mirror === mirror;
  }

  /** Numbers of another view are pale. */
  fade() {
    const isLate = !this.isNow();
    this.element.classList.toggle("late", isLate);
    this.readout.classList.toggle("late", isLate);
  }

  answered(answer, { image, mirror, since }) {
    const now = state.get();
    if (image !== now.image || mirror !== now.mirror || this.isNow()) return; // what the view asks for may be there already
    this.show(answer, since);
  }

  fail(error, { image, mirror, angle }) {
    const now = state.get();
    if (image !== now.image || mirror !== now.mirror || angle !== now.angle) return;
    this.failure.hidden = false;
    this.failure.textContent = error.message;
    this.fade();
  }

  /** The numbers of one angle. */
  show(answer, since) {
    const isNew = this.answer?.angle !== answer.angle || this.answer?.mirror !== answer.mirror;
    this.answer = answer;
    this.element.dataset.angle = answer.angle;
    if (this.isNow()) this.failure.hidden = true;
    this.redraw();
    this.say();
    this.fade();
    if (!isNew) return;
    const { latencies } = window.roteq;
    latencies.push({ model: this.model, angle: answer.angle, ms: performance.now() - since });
    if (latencies.length > MOST) latencies.shift();
  }

  redraw() {
    const { answer } = this;
    this.rows();
    const least = Math.min(...Object.values(answer.values));
    for (const row of this.bars.children) {
      const value = answer.values[row.dataset.class];
      row.querySelector(".value").textContent = value === undefined ? `< ${least.toFixed(3)}` : value.toFixed(3);
      row.querySelector(".fill").style.width = `${100 * Math.max(0, value ?? 0)}%`;
    }
    this.polar.point(answer.angle, this.curves().map((k) => this.curve(answer, k)));
  }

  /** What the circle draws of class k: of maps the share of pixels that changes. */
  curve(answer, k) {
    if (this.facts.kind === "map") return answer.changed ?? undefined;
    const value = answer.values[k];
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
    for (const { values } of answers) {
      for (const [k, value] of Object.entries(values)) best.set(Number(k), Math.max(value, best.get(Number(k)) ?? 0));
    }
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
  say() {
    const { answer } = this;
    const { kind } = this.facts;
    const where = `at ${answer.angle}°${answer.mirror ? ", mirrored" : ""}`;
    const decide = (strong, rest) => this.decision.replaceChildren(make("strong", {}, strong), make("span", { class: "sure" }, rest));
    if (kind === "map") {
      decide(percent(answer.changed), " of the pixels change");
      this.verdict.textContent = `${where}, turned back and compared with the upright map; the bars are the share of each class`;
    } else if (kind === "embedding") {
      decide(answer.values[0].toFixed(3), " similar");
      this.verdict.textContent = `${where}: the cosine between this embedding and that of the upright picture`;
    } else {
      decide(this.decided(answer), kind === "labels" ? "" : ` ${sure(answer.values[answer.decision])}`);
      this.verdict.replaceChildren(...this.compared(answer, where));
    }
    const isChanged = answer.changed === 1;
    this.said.textContent = `${this.decision.textContent}${isChanged ? " ↻" : ""}`;
    this.said.classList.toggle("is-changed", isChanged);
  }

  /** The class, or the labels that are more likely than not. */
  decided(answer) {
    if (this.facts.kind !== "labels") return this.name(answer.decision);
    return Object.entries(answer.values).filter(([, p]) => p > 0.5).map(([k]) => this.name(Number(k))).join(", ") || "none";
  }

  compared(answer, where) {
    const before = this.upright ? `; upright: ${this.decided(this.upright)}` : "";
    const found = answer.changed ? [make("span", { class: "mark" }, "↻ changed "), `${where}${before}`]
      : [answer.angle || answer.mirror ? `${where}, as upright` : "upright"];
    if (this.facts.kind !== "classes" || !this.facts.classes.includes(this.truth)) return found;
    return [...found, this.name(answer.decision) === this.truth ? " · right" : ` · ✗ wrong, it is ${this.truth}`];
  }

  /** For the ear: null while it thinks. */
  sentence() {
    const { name, error } = this.facts;
    if (error || !this.failure.hidden) return `${name}: ${this.failure.textContent}`;
    if (!this.isNow()) return null;
    return `${name}: ${this.decision.textContent}${this.answer.changed === 1 ? ", changed" : ""}.`;
  }

  /** More of the circle is known. */
  learn(circle) {
    const { image, mirror, angle } = state.get();
    if (circle.image !== image || circle.mirror !== mirror || !image) return;
    const answers = [...circle.answers.values()];
    const lines = this.curves().map((k) => ({
      name: this.facts.kind === "map" ? "share of the pixels that change" : this.name(k),
      at: new Map(answers.map((a) => [a.angle, this.curve(a, k)]).filter(([, value]) => value !== undefined)),
    }));
    const isDecided = !["map", "embedding"].includes(this.facts.kind);
    const label = `${this.facts.name}: ${lines.map((line) => line.name).join(", ")} at every angle`;
    this.polar.show(lines, isDecided ? answers.filter((a) => a.changed) : [], label);
    this.flips.replaceChildren(...summary(circle, this.about.step));
    if (circle.isDone) this.element.dataset.ready = "true";
    else this.element.removeAttribute("data-ready");
    this.tabulate(false);
    const known = circle.answers.get(angle);
    if (known && !this.isNow()) this.show(known, this.since);
    else if (this.answer) this.redraw();
  }

  /** The table behind the circle: filled when the circle is complete, or when it is opened. */
  tabulate(isAsked) {
    const circle = circleOf(this.model);
    if (!circle.isDone && !(isAsked && this.table.open)) return;
    const key = JSON.stringify([circle.image, circle.mirror, circle.answers.size]);
    if (this.tabulated === key) return;
    this.tabulated = key;
    const classes = this.leading().slice(0, ROWS);
    this.table.replaceChildren(this.table.firstChild, table(circle.answers.values(), this.facts, classes, (k) => this.name(k)));
  }
}
