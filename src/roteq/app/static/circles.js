// The answers around the circle: asked once for each model, image and mirror, kept while there is room.

import { ask, lines } from "./api.js";
import * as state from "./state.js";

const KEPT = 48;
const SLOW = 0.12; // s an answer
const circles = new Map(); // "model image mirror" -> Circle, the latest last
const listeners = new Set();
let last = Promise.resolve(); // the end of the last question for degrees between

class Circle {
  constructor(model, image, mirror) {
    Object.assign(this, { model, image, mirror, answers: new Map(), summary: null, error: null, running: null });
    this.between = new Map(); // the degrees between, once the circle is known
  }

  get isDone() {
    return this.summary !== null;
  }

  /** The answer at a whole degree, where it is known. */
  at(angle) {
    return this.answers.get(angle) ?? this.between.get(angle);
  }

  /** Ask for it, line by line, and then for the degrees between; one that failed is asked again. */
  async run() {
    if (this.running || this.isFine) return;
    const control = new AbortController();
    this.running = control;
    this.error = null;
    const { model, image, mirror } = this;
    try {
      for await (const line of this.isDone ? [] : lines("api/circle", { model, image, mirror }, control.signal)) {
        if (this.running !== control) return; // stopped, or asked again
        if (line.done) [this.summary, this.isFine] = [line.summary, line.seconds > SLOW]; // not worth everybody's wait
        else this.answers.set(line.angle, line);
        tell(this);
      }
      if (!this.isDone) throw new Error("it ended early; is roteq explore still running?");
      const turn = last.then(() => this.fill(control)); // one at a time: a browser has few connections
      last = turn.catch(() => {});
      await turn;
    } catch (error) {
      if (this.running !== control) return;
      if (!this.isDone) this.error = error.message; // what is between is asked one by one
      tell(this);
    }
    if (this.running === control) this.running = null;
  }

  /** The degrees between, as long as they are wanted. */
  async fill(control) {
    if (this.isFine || this.running !== control) return;
    const { model, image, mirror } = this;
    for await (const line of lines("api/circle", { model, image, mirror, step: 1 }, control.signal)) {
      if (this.running !== control) return;
      if (line.done) this.isFine = true;
      else this.between.set(line.angle, line);
    }
  }

  stop() {
    this.running?.abort();
    this.running = null;
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
  const known = circleOf(model, { image, mirror }).at(angle);
  return known ?? ask("api/answer", { model, image, angle, mirror }, signal);
}

/** listener(circle) is called when it knows more. */
export function onCircle(listener) {
  listeners.add(listener);
}

function tell(circle) {
  for (const listener of listeners) listener(circle);
}
