// The cameras with their latest answers. Each card is built once and changed where something differs.

import { ago, bar, element, find, hasPrefix, percent, prefix, setAttribute, setBar, setText, share } from "./dom.js";

const CELLS = 40;
const WITHOUT_ANSWER = new Set(["failed", "expired"]);
const cards = new Map();
let dirty = new Set();
let scheduled = false;

export function showAll(cameras) {
  const names = new Set(cameras.map((camera) => camera.camera));
  for (const [name, card] of cards) {
    if (!names.has(name)) {
      card.node.remove();
      cards.delete(name);
    }
  }
  for (const camera of cameras) {
    const card = cardOf(camera.camera);
    card.camera = camera;
    card.questions = new Map(camera.questions.map((question) => [question.question_id, { ...question, strip: [...question.strip] }]));
    dirty.add(camera.camera);
  }
  order();
  schedule();
}

// Cameras as they are now, without their questions.
export function showState(cameras) {
  for (const camera of cameras) {
    cardOf(camera.camera).camera = camera;
    dirty.add(camera.camera);
  }
  order();
  schedule();
}

export function takeAnswer(answer) {
  const card = cardOf(answer.camera);
  const id = answer.ad_hoc ? "" : answer.question_id;
  let question = card.questions.get(id);
  if (!question) {
    question = { question_id: id, question: answer.question, answer: null, latest: null, provisional: null, strip: [] };
    card.questions.set(id, question);
  }
  if (answer.late && question.latest !== null) return; // of a frame that waited for the link: it is in the history
  if (answer.question !== null || answer.ad_hoc) question.question = answer.question;
  if (answer.outcome === null) {
    question.provisional = answer;
  } else {
    question.provisional = null;
    question.latest = answer;
    question.strip = [...question.strip, answer].slice(-CELLS);
    if (answer.outcome === "answered" || answer.outcome === "degraded") question.answer = answer;
  }
  dirty.add(answer.camera);
  schedule();
}

export const names = () => [...cards.keys()].sort();
export const onlineCount = () => [...cards.values()].filter((card) => card.camera.online).length;

export function tick() {
  for (const card of cards.values()) {
    for (const row of card.rows.values()) setText(row.ago, when(row));
  }
}

export function filter(text) {
  const wanted = text.trim().toLowerCase();
  for (const [name, card] of cards) card.node.hidden = wanted !== "" && !name.includes(wanted) && !(card.camera.site ?? "").includes(wanted);
}

function schedule() {
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(() => {
    scheduled = false;
    for (const name of dirty) if (cards.has(name)) draw(cards.get(name));
    dirty = new Set();
  });
}

function order() {
  const grid = find("cameras");
  for (const name of names()) {
    const { node } = cards.get(name);
    // Only where the order differs: a node that is moved loses the focus.
    if (grid.children[names().indexOf(name)] !== node) grid.append(node);
  }
  find("no-cameras").hidden = cards.size > 0;
  find("filter-label").hidden = cards.size <= 8;
}

function cardOf(name) {
  if (!cards.has(name)) {
    const title = element("h3", { id: `camera-${name}`, text: name });
    const site = element("span", { class: "site" });
    const state = element("span", { class: "state" });
    const trouble = element("p", { class: "trouble", hidden: true });
    const list = element("ul", { class: "questions" });
    const waiting = element("p", { class: "waiting", text: "Nothing was asked yet." });
    const node = element("article", { class: "card camera", "aria-labelledby": `camera-${name}` },
      element("header", {}, title, site, state), trouble, list, waiting);
    const camera = { camera: name, site: null, online: true, problem: null };
    cards.set(name, { node, site, state, trouble, list, waiting, camera, questions: new Map(), rows: new Map() });
    order();
  }
  return cards.get(name);
}

function draw(card) {
  setText(card.site, card.camera.site ?? "");
  setText(card.state, card.camera.online ? "online" : "offline");
  setAttribute(card.state, "data-online", String(card.camera.online));
  card.trouble.hidden = card.camera.problem === null;
  setText(card.trouble, card.camera.problem ?? "");
  card.waiting.hidden = card.questions.size > 0;
  for (const [id, question] of card.questions) {
    if (!card.rows.has(id)) {
      card.rows.set(id, newRow());
      card.list.append(card.rows.get(id).node);
    }
    drawRow(card.rows.get(id), question);
  }
  for (const [id, row] of card.rows) {
    if (!card.questions.has(id)) {
      row.node.remove();
      card.rows.delete(id);
    }
  }
}

function newRow() {
  const row = {
    at: null,
    once: false,
    words: element("span", { class: "words" }),
    ago: element("span", { class: "ago" }),
    said: element("span", { class: "said" }),
    tag: element("span", { class: "tag" }),
    bar: bar(0),
    prefix: element("span", { class: "prefix" }),
    confidence: element("span", { class: "confidence" }),
    strip: element("div", { class: "strip", role: "img" }),
  };
  row.facts = element("p", { class: "facts" }, row.bar, row.prefix, row.confidence);
  for (let cell = 0; cell < CELLS; cell += 1) row.strip.append(element("span"));
  row.node = element("li", { class: "question" }, element("p", { class: "asked" }, row.words, row.ago),
    element("p", { class: "answer-line" }, row.said, row.tag), row.facts, row.strip);
  return row;
}

function drawRow(row, question) {
  const { answer, latest, provisional } = question;
  const shown = provisional ?? answer ?? latest;
  const failed = provisional === null && latest !== null && WITHOUT_ANSWER.has(latest.outcome);
  setText(row.words, question.question ?? (question.question_id === "" ? "Asked once by another client" : question.question_id));
  row.at = shown === null ? null : shown.at;
  row.once = question.question_id === "";
  setText(row.ago, when(row));
  setText(row.said, shown === null ? "…" : shown.text || shown.reason || shown.outcome);
  setAttribute(row.said, "data-state", shown === null || shown.text === "" ? "none" : failed ? "old" : "good");
  const kind = provisional !== null ? "improving" : failed ? latest.outcome : shown !== null && shown.outcome === "degraded" ? "degraded" : "";
  row.tag.hidden = kind === "";
  setText(row.tag, kind === "degraded" ? "not safe" : kind);
  setAttribute(row.tag, "data-kind", kind);
  setAttribute(row.tag, "title", failed ? latest.reason : shown === null ? "" : shown.reason);
  row.facts.hidden = !hasPrefix(shown);
  if (hasPrefix(shown)) {
    row.bar.hidden = shown.latents_total === null;
    setBar(row.bar, share(shown));
    setText(row.prefix, prefix(shown));
    setText(row.confidence, `${percent(shown.confidence)} sure`);
    setAttribute(row.confidence, "title", "Estimated chance that the answer from the whole latent is the same");
  }
  drawStrip(row.strip, question.strip, answer);
}

function when(row) {
  if (row.at === null) return "";
  return row.once ? `asked once, ${ago(row.at)}` : ago(row.at);
}

function drawStrip(strip, outcomes, current) {
  const cells = strip.children;
  const first = CELLS - outcomes.length;
  const said = new Map();
  for (let index = 0; index < CELLS; index += 1) {
    const outcome = outcomes[index - first];
    let kind = "empty-cell";
    if (outcome) {
      kind = outcome.text === "" ? (WITHOUT_ANSWER.has(outcome.outcome) ? "none" : "") : current !== null && outcome.text === current.text ? "same" : "other";
      const name = outcome.text || outcome.outcome;
      said.set(name, (said.get(name) ?? 0) + 1);
    }
    if (cells[index].className !== kind) cells[index].className = kind;
  }
  const parts = [...said].sort((one, other) => other[1] - one[1]).slice(0, 4).map(([name, times]) => `${times} × ${name}`);
  const label = outcomes.length === 0 ? "no outcome yet" : `last ${outcomes.length}: ${parts.join(", ")}`;
  setAttribute(strip, "aria-label", label);
  setAttribute(strip, "title", label);
}
