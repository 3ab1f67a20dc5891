// Everything that turns the picture: the dial, the slider, the number, the buttons, the keys, the whole circle.

import { shown, toggle } from "./shown.js";
import * as state from "./state.js";

const ROUND = 9000; // ms for a whole circle
const byId = (id) => document.getElementById(id);

/** Connect the controls; step(by) opens another image. */
export function mountTurning(about, step) {
  const [slider, number, mirror] = ["angle", "degrees", "mirror"].map(byId);
  const show = () => {
    const view = state.get();
    slider.value = view.angle;
    if (document.activeElement !== number || Number(number.value) % 360 !== view.angle) number.value = view.angle;
    mirror.setAttribute("aria-pressed", String(Boolean(view.mirror)));
  };
  const player = new Player(byId("play"));
  const turn = (angle) => {
    player.stop();
    state.set({ angle });
  };
  slider.addEventListener("input", () => turn(Number(slider.value)));
  number.addEventListener("input", () => number.value !== "" && turn(Number(number.value)));
  mirror.addEventListener("click", () => state.set({ mirror: state.get().mirror ? 0 : 1 }));
  byId("play").addEventListener("click", () => player.toggle());
  for (const button of document.querySelectorAll("[data-turn]")) button.addEventListener("click", () => turn(Number(button.dataset.turn)));
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  drag(byId("dial"), turn);
  keys(about, turn, player, step);
  state.subscribe(show);
  show();
}

/** Turn by what the pointer moves around the centre; it may be caught anywhere. */
function drag(dial, turn) {
  let before = null;
  let exact = 0;
  const pointed = (event) => {
    const box = dial.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left - box.width / 2, event.clientY - box.top - box.height / 2];
    return (Math.atan2(-x, -y) * 180) / Math.PI;
  };
  dial.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    dial.setPointerCapture(event.pointerId);
    before = pointed(event);
    exact = state.get().angle;
    dial.focus({ preventScroll: true });
    event.preventDefault();
  });
  dial.addEventListener("pointermove", (event) => {
    if (before === null) return;
    const now = pointed(event);
    exact += ((now - before + 540) % 360) - 180;
    before = now;
    turn(Math.round(exact));
  });
  for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) dial.addEventListener(end, () => (before = null));
}

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

const STEPS = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 15, PageDown: -15 };

function keys(about, turn, player, step) {
  const actions = {
    m: () => byId("mirror").click(),
    n: () => step(1),
    p: () => step(-1),
    g: () => byId("gallery").scrollIntoView(),
    "?": () => (byId("keys").open = !byId("keys").open, byId("keys").scrollIntoView({ block: "nearest" })),
    " ": () => player.toggle(),
  };
  addEventListener("keydown", (event) => {
    const { key, target } = event;
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    if (target.closest?.("input, select, textarea, [data-image]")) return;
    if (key === " " && target.closest?.("button, summary, a")) return;
    const by = STEPS[key];
    const isOnDial = target.id === "dial" || target === document.body;
    if (by && isOnDial) turn(state.get().angle + (event.shiftKey && Math.abs(by) === 1 ? 15 * by : by));
    else if (key === "Home" && isOnDial) turn(0);
    else if (/^[1-4]$/.test(key) && about.models.length > 1 && Number(key) <= about.models.length) toggle(about, Number(key) - 1);
    else if (actions[key]) actions[key]();
    else return;
    event.preventDefault();
  });
}

/** The decisions, said when the picture has come to rest. */
export function speak(about, sentence) {
  let timer = 0;
  state.subscribe((view, changed) => {
    if (!["angle", "mirror", "image"].some((key) => changed.has(key))) return;
    clearTimeout(timer);
    timer = setTimeout(() => state.say(`${view.angle} degrees${view.mirror ? ", mirrored" : ""}. ${shown(about).map(sentence).join(" ")}`), 700);
  });
}
