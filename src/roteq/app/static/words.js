// The sentences of the panel: what the law says at this angle, and how far the maps are from it.

/** A number for reading: 0, 0.012, 1.4, 3e-7. */
export function number(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size < 0.001 ? value.toExponential(0) : size >= 100 ? value.toFixed(0) : String(+value.toPrecision(3));
  return text.replace(/^-/, "−");
}

/** Degrees of one place of a layer's group; mirrors double the order, not the turns. */
export function stepOf(layer) {
  const turns = hasMirrors(layer) ? layer.order / 2 : layer.order;
  return 360 / Math.max(1, turns);
}

export function hasMirrors(layer) {
  return /^D\d/.test(layer.group ?? "");
}

/** Whether the picture is moved by an element of the layer's group. */
export function isElement(layer, angle, mirror) {
  const places = angle / stepOf(layer);
  return Math.abs(places - Math.round(places)) < 1e-6 && (!mirror || hasMirrors(layer));
}

/** The whole degrees at which the group has an element. */
export function wholeAngles(layer) {
  const step = stepOf(layer);
  const turns = Array.from({ length: Math.round(360 / step) }, (_, r) => r * step);
  return turns.filter((angle) => Math.abs(angle - Math.round(angle)) < 1e-6).map(Math.round);
}

/** What should happen to the maps at this angle, in one or two sentences. */
export function law(layer, angle, mirror) {
  const isPlain = layer.representation === "plain";
  if (mirror && !hasMirrors(layer)) return `${layer.group} has no mirrors: it promises nothing for a mirrored picture.`;
  if (layer.representation === "trivial") return pooled(angle, mirror);
  const step = stepOf(layer);
  if (!isElement(layer, angle, mirror)) {
    const below = Math.floor(angle / step) * step;
    return `${angle}° lies between two places of ${layer.group}, ${+below.toFixed(1)}° and ${+(below + step).toFixed(1)}°.`;
  }
  const places = Math.round(angle / step);
  if (!places && !mirror) {
    const first = `${+step.toFixed(1)}°`;
    if (isPlain) return "Upright. A plain network promises nothing: its channels are only read as blocks.";
    return `Upright. Turn the picture by ${first}, and every map turns by ${first} and moves on by one place.`;
  }
  const turned = `${angle}° = ${counted(places)} of ${layer.group}`;
  if (mirror) return mirrored(angle, places, turned, isPlain);
  const on = `on by ${counted(places)}`;
  const moves = isPlain ? `turn by ${angle}° and move ${on}` : `turns by ${angle}° and moves ${on}`;
  if (!isPlain) return `Turned by ${turned}: every map ${moves}.`;
  return `Turned by ${turned}. A plain network promises nothing; in step, every map would ${moves}.`;
}

function counted(places) {
  return places === 1 ? "one place" : `${places} places`;
}

function pooled(angle, mirror) {
  if (!angle && !mirror) return "Pooled over the group: one map a feature, which turns with the picture.";
  const moved = [mirror ? "is mirrored" : "", angle ? `turns by ${angle}°` : ""].filter(Boolean).join(" and ");
  return `Pooled over the group: one map a feature, which ${moved}.`;
}

function mirrored(angle, places, turned, isPlain) {
  const moved = places ? `Mirrored, then turned by ${turned}` : "Mirrored";
  const verb = isPlain ? "would change" : "changes";
  const what = places ? `mirrored and turned by ${angle}°` : "mirrored";
  return `${moved}: every map ${verb} to the other ring, ${what}; the places run the other way round.`;
}

/** What stands under the error: its scale, exact or not, and the relative error. */
export function under(error) {
  const how = error.exact ? "exact: pixels permuted" : "interpolated: the turn itself costs something";
  const relative = known(error.relative) ? `relative ${number(error.relative)}` : "";
  const scale = known(error.between) ? "0 = equivariant, 1 = as different as another picture" : "";
  return [scale, known(error.between) || relative ? how : "", relative].filter(Boolean).join(" · ");
}

/** The words beside the error. */
export function verdict(error) {
  if (!known(error.element)) return "No error: nothing is expected here.";
  if (!known(error.between)) return `No error: ${error.why}.`;
  const isRounding = error.exact && error.between < 1e-4;
  return isRounding ? "equivariance error: equal up to rounding" : "equivariance error";
}

export function known(value) {
  return value !== null && value !== undefined;
}
