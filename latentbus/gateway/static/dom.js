// Building and changing the page. Whatever comes from the fleet becomes text, never markup.

export const find = (id) => document.getElementById(id);

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") made.className = value;
    else if (name === "text") made.textContent = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

// Sets only what differs, so that a screen reader and the selection are left alone.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function setAttribute(node, name, value) {
  if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

export function bar(value) {
  const filled = element("span");
  filled.style.setProperty("--value", String(Math.min(1, Math.max(0, value))));
  return element("span", { class: "bar", "aria-hidden": "true" }, filled);
}

export function setBar(node, value) {
  node.firstChild.style.setProperty("--value", String(Math.min(1, Math.max(0, value))));
}

const number = new Intl.NumberFormat("en");
export const count = (value, word) => `${number.format(value)} ${word}${value === 1 ? "" : "s"}`;
export const bytes = (value) => count(value, "byte");
export const percent = (value) => `${Math.round(100 * value)} %`;

// Seconds that the clock of the gateway is ahead of this one.
let ahead = 0;
export const setClock = (now) => { ahead = now - Date.now() / 1000; };

export function ago(at) {
  const seconds = Math.max(0, Math.round(Date.now() / 1000 + ahead - at));
  if (seconds < 2) return "now";
  if (seconds < 90) return `${seconds} s ago`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 129600) return `${Math.round(seconds / 3600)} h ago`;
  return `${Math.round(seconds / 86400)} days ago`;
}

const ofToday = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const clock = new Intl.DateTimeFormat(undefined, { dateStyle: "short", timeStyle: "medium" });
export function time(at) {
  const date = new Date(1000 * at);
  return (date.toDateString() === new Date().toDateString() ? ofToday : clock).format(date);
}

export const isRecent = (at) => Date.now() / 1000 + ahead - at < 3600;

// What the model was given: "prefix 9 of 48, 41 bytes".
export function prefix(answer) {
  const whole = answer.latents_total === null ? "" : ` of ${answer.latents_total}`;
  return `prefix ${answer.latents}${whole}, ${bytes(answer.payload_bytes)}`;
}

export const hasPrefix = (answer) => answer !== null && answer.latents !== null;
export const share = (answer) => (answer.latents_total ? answer.latents / answer.latents_total : 0);
