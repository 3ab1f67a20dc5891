// Elements by name; text is always text, never HTML.

const SVG = "http://www.w3.org/2000/svg";

/** An HTML element: properties (class, data-*, aria-*, on<event>, any property), then children (elements or text). */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key in element && !key.includes("-")) element[key] = value;
    else element.setAttribute(key === "class" ? "class" : key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** An SVG element with attributes. */
export function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** A decoded picture of a data: or server address. */
export async function picture(source) {
  const image = new Image();
  image.src = source;
  await image.decode();
  return image;
}

/** Tell `seen(true | false)` whether the element is on the screen. */
export function whenSeen(element, seen) {
  const observer = new IntersectionObserver((entries) => seen(entries.at(-1).isIntersecting));
  observer.observe(element);
}
