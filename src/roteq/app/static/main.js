// The page: asks what there is, connects its parts, and opens images.

import { ask, send } from "./api.js";
import { mountAnswers } from "./answers.js";
import { speak } from "./keyboard.js";
import { Stage } from "./stage.js";
import * as state from "./state.js";
import { mountTurning } from "./turning.js";

const PARTS = { saving: "mountSaving", inside: "mountInside", gallery: "mountGallery" }; // below the picture
const byId = (id) => document.getElementById(id);

document.addEventListener("roteq:complain", ({ detail }) => {
  const box = byId("complaint");
  box.hidden = !detail;
  const close = document.createElement("button");
  Object.assign(close, { type: "button", textContent: "✕", ariaLabel: "Close", onclick: () => (box.hidden = true) });
  box.replaceChildren(detail, close);
});
byId("lead-close").addEventListener("click", () => {
  byId("lead").hidden = true;
  byId("dial").focus({ preventScroll: true });
});
document.addEventListener("roteq:said", ({ detail }) => (byId("said").textContent = detail));

theme();
try {
  start(await ask("api/about"));
} catch (error) {
  state.complain(error.message);
}

function start(about) {
  const { images, source, split } = about.set;
  document.title = `roteq explore: ${about.models.map((model) => model.name).join(", ")}`;
  byId("made").textContent = `roteq ${about.version}${images ? ` · ${images} images of ${source}${split ? ` (${split})` : ""}` : ""}`;
  if (!state.get().image && images) state.set({ image: "0" });
  const step = (by) => {
    const here = Number(state.get().image);
    if (images) state.set({ image: String(Number.isInteger(here) && state.get().image !== "" ? (here + by + images) % images : 0) });
  };
  const steps = () => {
    for (const id of ["previous", "next"]) byId(id).disabled = !images || (images === 1 && state.get().image === "0");
  };
  state.subscribe(steps);
  steps();
  new Stage(about);
  const sentence = mountAnswers(about);
  mountTurning(about, step);
  speak(about, sentence);
  receive();
  for (const [name, mount] of Object.entries(PARTS)) below(name, mount, about);
}

/** A part that fails to load leaves the others alone, and says so where it would stand. */
async function below(name, mount, about) {
  try {
    const part = await import(`./${name}.js`);
    await part[mount](byId(name), about);
  } catch (error) {
    console.warn(error);
    const words = document.createElement("p");
    words.textContent = "This part of the page did not load; the rest works without it.";
    byId(name).append(words);
  }
}

/** Pictures that are chosen, dropped anywhere, or pasted. */
function receive() {
  const open = async (file) => {
    if (!file) return;
    try {
      const { id } = await send("api/images", file);
      state.complain("");
      state.set({ image: id, angle: 0, mirror: 0 });
    } catch (error) {
      state.complain(error.message);
    }
  };
  const input = byId("file");
  input.addEventListener("change", () => {
    open(input.files[0]);
    input.value = "";
  });
  let inside = 0;
  const hint = (by) => {
    inside = by ? Math.max(0, inside + by) : 0;
    byId("drop").hidden = !inside;
  };
  const hasFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  addEventListener("dragenter", (event) => hasFile(event) && hint(1));
  addEventListener("dragleave", (event) => hasFile(event) && hint(-1));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    hint(0);
    const file = event.dataTransfer.files[0];
    if (file) open(file);
    else state.complain("Drop a picture file: this was a link or a text, and pages of others are not fetched.");
  });
  addEventListener("paste", (event) => open([...(event.clipboardData?.files ?? [])][0]));
}

/** Light, dark, or as the system is; the choice stays in this browser. */
function theme() {
  const select = byId("theme");
  const apply = () => {
    if (select.value) document.documentElement.dataset.theme = select.value;
    else delete document.documentElement.dataset.theme;
  };
  try {
    select.value = localStorage.getItem("roteq-theme") ?? "";
  } catch {
    // not allowed here
  }
  apply();
  select.addEventListener("change", () => {
    apply();
    try {
      localStorage.setItem("roteq-theme", select.value);
    } catch {
      // for this visit only
    }
  });
}
