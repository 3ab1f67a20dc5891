// The answers around the circle: asked once for each model, image and mirror, kept while there is room.

import { ask, lines } from "./api.js";
import * as state from "./state.js";

const KEPT = 48;
const circles = new Map(); // "model image mirror" -> Circle, the latest last
const listeners = new Set();

class Circle {
  constructor(model, image, mirror) {
    Object.assign(this, { model, image, mirror, answers: new Map(), summary: null, error: null, running: null });
  }

  get isDone() {
    return this.summary !== null;
  }

  /** Ask for what is missing, line by line. */
  async run() {
    if (this.running || this.isDone || this.error) return;
    this.running = new AbortController();
    const { model, image, mirror } = this;
    try {
      for await (const line of lines("api/circle", { model, image, mirror }, this.running.signal)) {
        if (line.done) this.summary = line.summary;
        else this.answers.set(line.angle, line);
        tell(this);
      }
    } catch (error) {
      if (error.name !== "AbortError") {
        this.error = error.message;
        tell(this);
      }
    }
    this.running = null;
  }

  stop() {
    this.running?.abort();
  }
}

/** The circle of a model for the view, known or not. */
export function circleOf(model, { image, mirror } = state.get()) {
  const key = JSON.stringify([model, image, mirror]);
  const found = circles.get(key) ?? new Circle(model, image, mirror);
  circles.delete(key);
  circles.set(key, found);
  for (const [old, circle] of circles) {
    if (circles.size <= KEPT) break;
    circle.stop();
    circles.delete(old);
  }
  return found;
}

/** Compute the circles of these models for the view, and no others. */
export function follow(models) {
  const { image } = state.get();
  const wanted = new Set(image ? models.map((model) => circleOf(model)) : []);
  for (const circle of circles.values()) if (!wanted.has(circle)) circle.stop();
  for (const circle of wanted) circle.run();
}

/** The answer at one angle, from the circle where it is known. */
export async function answerAt(model, { image, mirror, angle }, signal) {
  const known = circleOf(model, { image, mirror }).answers.get(angle);
  return known ?? ask("api/answer", { model, image, angle, mirror }, signal);
}

/** listener(circle) is called when it knows more. */
export function onCircle(listener) {
  listeners.add(listener);
}

function tell(circle) {
  for (const listener of listeners) listener(circle);
}
