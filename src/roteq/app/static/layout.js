// Where the tiles of a ring stand. Place g is at the angle of g: 0 at the top, counter-clockwise, as on the dial.

export const GAP = 5; // px between two tiles
const LABEL = 34; // px around the ring for the angles

/** x and y of the direction of so many degrees. */
export function direction(degrees) {
  const t = (degrees * Math.PI) / 180;
  return [-Math.sin(t), -Math.cos(t)];
}

/** Everything in a square of `size` px: {height, tile, arc: radius, middle: side of the picture and its centre,
 *  at: [[x, y] of each element]}. The tiles, discs or squares, are as large as they can be without touching;
 *  mirrored elements stand on the inner ring; a single map stands beside the picture. */
export function layout(elements, size, isDisc) {
  if (elements.length === 1) return single(size);
  let best = ring(elements, size, isDisc, 8);
  for (let tile = 9; tile < size / 3; tile++) {
    const next = ring(elements, size, isDisc, tile);
    if (!next.fits) break;
    best = next;
  }
  return best;
}

function single(size) {
  const [tile, height] = [0.44 * size, 0.52 * size];
  const middle = { side: tile, x: 0.75 * size, y: height / 2 };
  return { height, tile, arc: 0, middle, at: [[0.25 * size, height / 2]] };
}

function ring(elements, size, isDisc, tile) {
  const isAxial = elements.every((element) => element.angle % 90 === 0);
  const reach = isDisc || isAxial ? 0.5 : Math.SQRT1_2; // of a tile, towards the centre
  const hasMirrors = elements.some((element) => element.mirror);
  const outer = size / 2 - LABEL - tile / 2;
  const inner = hasMirrors ? outer - 2 * reach * tile - 1.5 * GAP : outer;
  const at = elements.map((element) => {
    const [x, y] = direction(element.angle);
    const radius = element.mirror ? inner : outer;
    return [size / 2 + radius * x, size / 2 + radius * y];
  });
  const arc = inner - reach * tile - 9;
  const between = isDisc ? Math.hypot : (x, y) => Math.max(Math.abs(x), Math.abs(y));
  const apart = at.every(([x, y], i) => at.every(([u, v], j) => j <= i || between(x - u, y - v) >= tile + GAP));
  const middle = { side: Math.SQRT2 * (arc - 9), x: size / 2, y: size / 2 };
  return { height: size, tile, arc, middle, at, fits: apart && arc > size * (hasMirrors ? 0.115 : 0.19) };
}

/** The path of an arc from the top, counter-clockwise, and of its arrow head. */
export function arrow(size, radius, degrees) {
  const point = (angle, r) => {
    const [x, y] = direction(angle);
    return `${(size / 2 + r * x).toFixed(1)} ${(size / 2 + r * y).toFixed(1)}`;
  };
  const head = Math.min(degrees, 500 / radius); // degrees that the head covers
  const end = degrees - 0.6 * head;
  const line = `M${point(0, radius)}A${radius} ${radius} 0 ${end > 180 ? 1 : 0} 0 ${point(end, radius)}`;
  return [line, `M${point(degrees, radius)}L${point(degrees - head, radius + 5)}L${point(degrees - head, radius - 5)}Z`];
}

/** Width and height of a picture of these proportions in a square of that side. */
export function within(width, height, side) {
  const scale = side / Math.max(width, height);
  return [width * scale, height * scale];
}
