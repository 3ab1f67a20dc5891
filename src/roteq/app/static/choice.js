// Which layer each of the two rings shows. In the address: "model:path|model:path", "-" for none.

import { make } from "./make.js";

/** Everything that can be chosen: [{model, name, info}]. */
export function choices(about) {
  return about.models.flatMap((model, i) => (model.layers ?? []).map((info) => ({ model: i, name: model.name, info })));
}

/** The two choices of the address, or what is shown first. */
export function chosen(about, text) {
  const all = choices(about);
  const parts = text.split("|");
  const first = parts[0] === "-" ? null : named(all, parts[0]) ?? firstOf(about, all);
  const second = parts[1] === "-" ? null : named(all, parts[1]) ?? secondOf(about, all, first);
  return [first, second];
}

/** The address of two choices. */
export function written(pair) {
  return pair.map(key).join("|");
}

/** A choice in the address. */
export function key(choice) {
  return choice ? `${choice.model}:${choice.info.path}` : "-";
}

function named(all, text) {
  return all.find((choice) => key(choice) === text);
}

/** Whether its layers promise more than the identity. */
function isEquivariant(choice) {
  return choice.info.representation !== "plain" && choice.info.order > 1;
}

function firstOf(about, all) {
  const regular = all.find((choice) => isEquivariant(choice) && choice.info.representation === "regular");
  return regular ?? all.find(isEquivariant) ?? all[0] ?? null;
}

/** Another model, rather one that is not equivariant, at a similar depth. */
function secondOf(about, all, first) {
  if (!first) return null;
  const others = all.filter((choice) => choice.model !== first.model);
  const equivariant = new Set(all.filter(isEquivariant).map((choice) => choice.model));
  const model = (others.find((choice) => !equivariant.has(choice.model)) ?? others[0])?.model;
  const layers = others.filter((choice) => choice.model === model);
  if (!layers.length) return null;
  const mine = all.filter((choice) => choice.model === first.model);
  const depth = mine.indexOf(first) / Math.max(1, mine.length - 1);
  return layers[Math.round(depth * (layers.length - 1))];
}

/** What a layer is, in a few words. */
export function described(info) {
  const features = `${info.features} feature${info.features === 1 ? "" : "s"}`;
  if (info.representation === "plain") return `${info.features * info.order} channels, read as blocks of ${info.group}`;
  return `${info.group ?? "no group"}, ${info.representation}, ${features}`;
}

/** A select of all layers, grouped by model. */
export function layerSelect(about, id, changed) {
  const select = make("select", { id, onchange: () => changed(select.value) });
  about.models.forEach((model, i) => {
    if (!model.layers?.length) return;
    const group = make("optgroup", { label: model.name });
    for (const info of model.layers) {
      const text = `${info.path || "(all)"}: ${info.kind} · ${described(info)}`;
      group.append(make("option", { value: key({ model: i, info }) }, text));
    }
    select.append(group);
  });
  select.append(make("option", { value: "-" }, "nothing"));
  return select;
}
