// Everything that turns the picture: the dial, the slider, the number, the buttons, the whole circle.

import { listen } from "./keyboard.js";
import * as state from "./state.js";

const ROUND = 9000; // ms for a whole circle
const byId = (id) => document.getElementById(id);

/** Connect the controls; step(by) opens another image. */
export function mountTurning(about, step) {
  const [slider, number, mirror] = ["angle", "degrees", "mirror"].map(byId);
  const show = () => {
    const view = state.get();
    slider.value = view.angle;
    if (document.activeElement !== number || state.whole(number.value) !== view.angle) number.value = view.angle;
    mirror.setAttribute("aria-pressed", String(Boolean(view.mirror)));
  };
  const player = new Player(byId("play"));
  const turn = (angle) => {
    player.stop();
    state.set({ angle });
  };
  slider.addEventListener("input", () => turn(Number(slider.value)));
  number.addEventListener("input", () => number.value !== "" && turn(Number(number.value)));
  number.addEventListener("blur", () => (number.value = state.get().angle));
  mirror.addEventListener("click", () => state.set({ mirror: state.get().mirror ? 0 : 1 }));
  byId("play").addEventListener("click", () => player.toggle());
  for (const button of document.querySelectorAll("[data-turn]")) button.addEventListener("click", () => turn(Number(button.dataset.turn)));
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  drag(byId("dial"), turn);
  listen(about, turn, player, step);
  state.subscribe(show);
  show();
}

/** Turn by what the pointer moves around the centre; it may be caught anywhere, and a second finger changes nothing. */
function drag(dial, turn) {
  let pointer = null;
  let before = 0;
  let exact = 0;
  const pointed = (event) => {
    const box = dial.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left - box.width / 2, event.clientY - box.top - box.height / 2];
    return (Math.atan2(-x, -y) * 180) / Math.PI;
  };
  dial.addEventListener("pointerdown", (event) => {
    if (event.button || pointer !== null) return;
    pointer = event.pointerId;
    dial.setPointerCapture(pointer);
    before = pointed(event);
    exact = state.get().angle;
    dial.focus({ preventScroll: true });
    event.preventDefault();
  });
  dial.addEventListener("pointermove", (event) => {
    if (event.pointerId !== pointer) return;
    const now = pointed(event);
    exact += ((now - before + 540) % 360) - 180;
    before = now;
    turn(Math.round(exact));
  });
  const end = (event) => {
    if (event.pointerId === pointer) pointer = null;
  };
  for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) dial.addEventListener(name, end);
}

/** Turns on and on, at one pace, until it is stopped. */
class Player {
  constructor(button) {
    this.button = button;
    this.frame = 0;
  }

  toggle() {
    if (this.frame) return this.stop();
    let before = performance.now();
    let exact = state.get().angle;
    const next = (now) => {
      exact += (360 * (now - before)) / ROUND;
      before = now;
      state.set({ angle: Math.floor(exact) });
      this.frame = requestAnimationFrame(next);
    };
    this.frame = requestAnimationFrame(next);
    this.show();
  }

  stop() {
    if (!this.frame) return;
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    this.show();
  }

  show() {
    this.button.setAttribute("aria-pressed", String(Boolean(this.frame)));
    this.button.textContent = this.frame ? "❚❚ Pause" : "▶ Play";
  }
}
