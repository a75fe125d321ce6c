// The ask box: the answer improves while one looks.

import { bar, bytes, element, find, hasPrefix, percent, prefix, share } from "./dom.js";
import { eventsOf } from "./stream.js";

let running = null;

export function setCameras(names) {
  for (const [id, keep] of [["ask-camera", 0], ["history-camera", 1]]) {
    const select = find(id);
    const known = [...select.options].slice(keep).map((option) => option.value);
    if (known.join("\n") === names.join("\n")) continue;
    const chosen = select.value;
    while (select.options.length > keep) select.remove(keep);
    for (const name of names) select.add(new Option(name, name));
    if (names.includes(chosen)) select.value = chosen;
  }
}

export function prepare() {
  const type = find("ask-type");
  const showOptions = () => {
    const choice = type.value === "choice";
    find("ask-options-field").hidden = !choice;
    find("ask-options").required = choice;
  };
  type.addEventListener("change", showOptions);
  showOptions();
  find("ask-form").addEventListener("submit", (event) => {
    event.preventDefault();
    ask();
  });
}

async function ask() {
  if (running !== null) running.abort();
  const control = running = new AbortController();
  const result = find("ask-result");
  const question = { camera: find("ask-camera").value, question: find("ask-question").value.trim(), answer_type: find("ask-type").value };
  if (question.answer_type === "choice") {
    question.options = find("ask-options").value.split(",").map((option) => option.trim()).filter((option) => option !== "");
  }
  const steps = [];
  result.replaceChildren(element("p", { class: "waiting-line", text: `Asking ${question.camera} …` }));
  try {
    const response = await fetch("/v1/ask", {
      method: "POST",
      headers: { "Content-Type": "application/json", Accept: "text/event-stream" },
      body: JSON.stringify(question),
      signal: control.signal,
    });
    if (!response.ok) throw new Error((await response.json()).problem);
    for await (const { event, data } of eventsOf(response)) {
      if (event === "error") throw new Error(data.problem);
      steps.push(data);
      show(result, question, steps);
    }
    if (steps.length === 0 || steps.at(-1).outcome === null) throw new Error("the connection broke before the final answer");
  } catch (error) {
    if (error.name === "AbortError") return;
    const problem = error instanceof TypeError ? "the gateway is out of reach" : error.message;
    result.append(element("p", { class: "problem", role: "alert", text: problem }));
  } finally {
    if (running === control) running = null;
  }
}

function show(result, question, steps) {
  const answer = steps.at(-1);
  const final = answer.outcome !== null;
  const safe = answer.outcome === "answered";
  const tag = !final ? "improving" : safe ? "final" : answer.outcome === "degraded" ? "not safe" : answer.outcome;
  const line = element("p", { class: "answer-line" },
    element("span", { class: "said", "data-state": answer.text === "" ? "none" : "good", text: answer.text || answer.reason || answer.outcome }),
    element("span", { class: "tag", "data-kind": final ? (safe ? "final" : answer.outcome) : "improving", text: tag }));
  const parts = [element("p", { class: "asked", text: `${question.camera}: ${question.question}` }), line];
  if (hasPrefix(answer)) {
    parts.push(element("p", { class: "facts" }, answer.latents_total === null ? null : bar(share(answer)),
      element("span", { text: prefix(answer) }), element("span", { text: `confidence ${percent(answer.confidence)}` }),
      element("span", { text: `${answer.elapsed_ms} ms` })));
  }
  if (final && answer.reason !== "" && answer.text !== "") parts.push(element("p", { class: "hint", text: answer.reason }));
  if (steps.length > 1) {
    parts.push(element("ol", { class: "steps", "aria-label": "How the answer improved" },
      ...steps.filter(hasPrefix).map((step) => element("li", { text: `${step.text || "–"} (${bytes(step.payload_bytes)}, ${step.elapsed_ms} ms)` }))));
  }
  result.replaceChildren(...parts);
}
