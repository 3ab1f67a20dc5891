// All images of the set, sorted by what turning does to them; the numbers come in while they are judged.

import { ask, newest } from "./api.js";
import { make, whenSeen } from "./make.js";
import * as state from "./state.js";
import { fill, thumb } from "./thumb.js";

const PAGE = 60;
const MOST = 600; // looked at again while they are judged
const WAIT = 2000; // ms between two looks while images are judged
const SORTS = [["flips", "flips, most first"], ["confidence", "confidence, least sure first"], ["mistakes", "mistakes, surest first"], ["name", "name"]];

const KEYS = {
  classes: "Two numbers: how many exact turns change the decision · how many interpolated turns.",
  map: "Two numbers: the share of the pixels that changes at exact turns · at interpolated turns.",
  embedding: "This model gives embeddings: there is no decision that could change.",
};

/** Put the gallery into the section, below its heading. */
export function mountGallery(element, about) {
  if (!about.set.images) {
    element.append(make("p", { class: "small" }, "No set of images was given: drop a picture on the page to look at it."));
    return;
  }
  const gallery = new Gallery(about);
  element.append(...gallery.elements);
  whenSeen(element, (seen) => gallery.see(seen));
  state.subscribe((view, changed) => gallery.changed(changed));
}

class Gallery {
  constructor(about) {
    this.total = about.set.images;
    this.isSeen = this.wasSeen = this.isStale = false;
    this.timer = 0;
    this.wanted = PAGE; // how many are shown
    this.thumbs = new Map(); // id -> button
    this.items = new Map(); // id -> what was last said of it
    const select = (id, label, options, key) => {
      const choice = make("select", { id });
      choice.onchange = () => state.set({ [key]: key === "by" ? Number(choice.value) : choice.value });
      choice.append(...options.map(([value, text]) => make("option", { value }, text)));
      return [make("label", {}, label, " ", choice), choice];
    };
    const sorts = about.set.labelled ? SORTS : SORTS.filter(([value]) => value !== "mistakes");
    [this.sortLabel, this.sort] = select("gallery-sort", "Sort by", sorts, "sort");
    [this.byLabel, this.by] = select("gallery-by", "of", about.models.map((model, i) => [String(i), model.name]), "by");
    this.again = make("button", { type: "button", class: "again", hidden: true, onclick: () => this.reorder() }, "Sort again");
    this.progress = make("progress", { max: this.total, value: 0, "aria-label": "Images judged" });
    this.judged = make("span", { class: "judged" });
    this.list = make("ul", { class: "thumbs", "aria-label": "Images" });
    this.list.addEventListener("click", (event) => this.open(event));
    this.list.addEventListener("keydown", (event) => this.move(event));
    this.more = make("button", { type: "button", class: "more", hidden: true, onclick: () => this.grow() }, "More");
    this.trouble = make("p", { class: "trouble", role: "status", hidden: true });
    const progress = make("span", { class: "progress" }, this.progress, this.judged);
    const bar = make("div", { class: "gallery-tools" }, this.sortLabel, this.byLabel, this.again, progress);
    this.key = make("p", { class: "small" });
    this.models = about.models;
    this.elements = [bar, this.key, this.list, this.more, this.trouble];
    const failed = (error) => this.fail(error);
    this.queue = newest((job, signal) => this.fetch(job, signal), (found, job) => this.answered(found, job), failed);
    this.take();
    this.queue.ask({ order: true });
  }

  /** Show the view's sorting in the selects. */
  take() {
    const { sort, by } = state.get();
    this.sort.value = [...this.sort.options].some((option) => option.value === sort) ? sort : "flips";
    this.by.value = by < this.by.options.length ? String(by) : "0";
    this.key.textContent = KEYS[this.models[Number(this.by.value)].kind] ?? KEYS.classes;
  }

  see(seen) {
    this.isSeen = seen;
    clearTimeout(this.timer);
    if (seen) this.queue.ask({ order: this.isStale || !this.wasSeen });
    this.wasSeen ||= seen;
  }

  changed(keys) {
    if (keys.has("sort") || keys.has("by")) {
      this.take();
      this.reorder();
    }
    if (keys.has("image")) this.mark();
  }

  reorder() {
    if (this.isSeen) this.queue.ask({ order: true });
    else this.isStale = true;
  }

  grow() {
    this.wanted += PAGE;
    this.queue.ask({ order: true });
  }

  /** The first images in the order of the server, page by page: those that are shown, and those judged by now, since
   *  what is shown may have been sorted further down. */
  async fetch(job, signal) {
    const items = [];
    const asked = { sort: this.sort.value, model: this.by.value };
    for (;;) {
      const page = await ask("api/images", { ...asked, offset: items.length, limit: PAGE }, signal);
      items.push(...page.items);
      const most = Math.max(this.wanted, job.order ? 0 : Math.min(page.judged, MOST));
      if (!page.items.length || items.length >= Math.min(most, page.total)) return { ...page, items, asked };
    }
  }

  answered({ items, judged, total, asked }, job) {
    this.trouble.hidden = true;
    for (const item of items) this.items.set(item.id, item);
    const order = items.slice(0, this.wanted).map((item) => item.id);
    const shown = [...this.list.children].map((place) => place.firstChild.dataset.image);
    const placed = JSON.stringify([asked, this.wanted]);
    if (job.order || placed !== this.placed) this.place(order);
    else this.isStale = order.join() !== shown.join();
    this.placed = placed;
    for (const [id, button] of this.thumbs) fill(button, this.items.get(id), Number(this.by.value));
    this.again.hidden = !this.isStale;
    this.more.hidden = this.list.children.length >= total;
    this.more.textContent = `More (${this.list.children.length} of ${total})`;
    this.progress.hidden = judged >= total;
    this.progress.value = judged;
    this.judged.textContent = judged < total ? `judged ${judged} of ${total}` : `${total} images`;
    this.mark();
    clearTimeout(this.timer);
    if (this.isSeen && judged < total) this.timer = setTimeout(() => this.queue.ask({ order: false }), WAIT);
  }

  /** Put the thumbs in this order; those that are known are moved, not made again. */
  place(order) {
    this.isStale = false;
    const focused = document.activeElement?.dataset?.image;
    const known = this.thumbs;
    this.thumbs = new Map(order.map((id) => [id, known.get(id) ?? thumb(this.items.get(id))]));
    this.list.replaceChildren(...[...this.thumbs.values()].map((button) => button.parentNode ?? make("li", {}, button)));
    if (focused) this.thumbs.get(focused)?.focus({ preventScroll: true });
  }

  /** Mark the open image; one thumb can be reached with Tab. */
  mark() {
    const { image } = state.get();
    for (const [id, button] of this.thumbs) {
      if (id === image) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
    const buttons = [...this.thumbs.values()];
    const reachable = buttons.find((button) => button === document.activeElement) ?? this.thumbs.get(image) ?? buttons[0];
    for (const button of buttons) button.tabIndex = button === reachable ? 0 : -1;
  }

  open(event) {
    const button = event.target.closest("[data-image]");
    if (!button) return;
    state.set({ image: button.dataset.image });
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const stage = document.getElementById("stage") ?? document.querySelector("main");
    stage?.scrollIntoView({ behavior: calm ? "auto" : "smooth", block: "start" });
    if (event.detail === 0) document.getElementById("dial")?.focus({ preventScroll: true }); // by the keyboard: turn next
  }

  /** Arrow keys, Home and End go from image to image. */
  move(event) {
    const buttons = [...this.thumbs.values()];
    const here = buttons.indexOf(event.target.closest("[data-image]"));
    const columns = buttons.filter((button) => button.offsetTop === buttons[0].offsetTop).length;
    const arrows = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns };
    const steps = { ...arrows, Home: -here, End: buttons.length - 1 - here };
    const step = steps[event.key];
    if (here < 0 || step === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    const next = buttons[here + step] ?? (event.key === "ArrowDown" ? buttons.at(-1) : null);
    if (!next) return;
    buttons[here].tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }

  fail(error) {
    this.trouble.hidden = false;
    this.trouble.textContent = error.message;
    clearTimeout(this.timer);
    if (this.isSeen) this.timer = setTimeout(() => this.queue.ask({ order: !this.thumbs.size }), 2 * WAIT);
  }
}
