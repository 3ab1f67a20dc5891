// Take it along: a link, a picture of this view, the whole circle as a film.

import { ask, fetched } from "./api.js";
import { make } from "./make.js";
import * as state from "./state.js";

const FORMATS = [
  ["png", "Picture (PNG)", "this view as a PNG picture"],
  ["gif", "GIF", "the whole circle as an animated GIF"],
  ["webp", "WebP", "the whole circle as an animated WebP"],
  ["mp4", "MP4", "the whole circle as an MP4 film"],
];

/** Put the buttons into the element. */
export function mountSaving(element) {
  const said = make("span", { class: "saving-said", role: "status" });
  const cancel = make("button", { type: "button", class: "cancel", hidden: true }, "cancel");
  const field = make("input", { class: "link", type: "text", readOnly: true, hidden: true, "aria-label": "Link of this view" });
  const copy = make("button", { type: "button", id: "copy-link", onclick: () => copyLink(field, said) }, "Copy link");
  const buttons = FORMATS.map(([format, text, title]) => {
    const names = { id: `save-${format}`, title: `Save ${title}`, "aria-label": `Save ${title}` };
    const button = make("button", { type: "button", ...names }, text);
    button.addEventListener("click", () => save(format, buttons, cancel, said));
    return button;
  });
  const film = make("span", { class: "films", role: "group", "aria-label": "The circle as a film" });
  film.append(make("span", { class: "films-name", "aria-hidden": "true" }, "Film"), ...buttons.slice(1));
  const now = make("span", { class: "saving-now" }, said, cancel);
  element.append(make("div", { class: "saving" }, copy, buttons[0], film, now, field));
}

async function copyLink(field, said) {
  const link = new URL(state.link(), location.href).href;
  field.hidden = true;
  try {
    await navigator.clipboard.writeText(link);
    said.textContent = "Copied. The link opens this view on this server.";
  } catch {
    field.hidden = false;
    field.value = link;
    field.focus();
    field.select();
    said.textContent = "Copy it from here:";
  }
}

async function save(format, buttons, cancel, said) {
  const { image, mirror, angle, models } = state.get();
  if (!image) return void (said.textContent = "Open a picture first.");
  const running = new AbortController();
  const busy = (is) => {
    for (const button of buttons) button.disabled = is;
    cancel.hidden = !is;
  };
  cancel.onclick = () => running.abort();
  busy(true);
  said.textContent = format === "png" ? "Rendering…" : "Rendering the circle…";
  try {
    const wanted = { format, image, mirror, angle, models: models.join(","), theme: theme() };
    if (!models.length) delete wanted.models;
    const { name } = await ask(`api/images/${encodeURIComponent(image)}`, {}, running.signal);
    const film = await fetched("api/export", wanted, running.signal);
    const file = `roteq-${plain(name)}-${format === "png" ? angle : "circle"}${mirror ? "-mirrored" : ""}.${format}`;
    download(film, file);
    said.textContent = `Saved ${file}`;
  } catch (error) {
    said.textContent = error.name === "AbortError" ? "Cancelled." : error.message;
  }
  busy(false);
}

/** Light or dark, as the page is. */
function theme() {
  const { theme } = document.documentElement.dataset;
  if (theme === "light" || theme === "dark") return theme;
  return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

/** A name of letters, digits and hyphens, without ending. */
function plain(name) {
  const words = name.replace(/\.[a-z0-9]{2,5}$/i, "").replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/g, "");
  return words.slice(-60) || "picture";
}

function download(blob, name) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
