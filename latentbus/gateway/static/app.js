// The dashboard: follows the stream of events, and shows what it says.

import * as ask from "./ask.js";
import * as cameras from "./cameras.js";
import { ago, bar, bytes, count, element, find, hasPrefix, isRecent, prefix, setAttribute, setClock, setText, time } from "./dom.js";
import { follow } from "./stream.js";

const SHOWN_OVER = 3;
const PAGE = 25;
const LEFT_OUT = {
  normal: "",
  stretched: ", budget low: standing questions less often",
  ad_hoc_only: ", budget low: no standing questions",
  spent: ", budget spent: no questions",
};
let alerts = new Map();
let gaps = [];
let health = { ready: true, problems: [] };
let sites = [];
let workers = [];
let state = "connecting";

const stream = follow({
  snapshot(everything) {
    setClock(everything.now);
    find("content").hidden = false;
    find("log-in").hidden = true;
    find("log-out").hidden = everything.session.name === null;
    find("ask").hidden = everything.session.role === "viewer";
    alerts = new Map(everything.alerts.map((alert) => [alert.id, alert]));
    cameras.showAll(everything.cameras);
    showFleet(everything);
    showAlerts();
  },
  answer: cameras.takeAnswer,
  fleet: showFleet,
  cameras(update) {
    cameras.showState(update.cameras);
    ask.setCameras(cameras.names());
    showTotals();
  },
  alert(alert) {
    alerts.set(alert.id, alert);
    showAlerts();
  },
}, (found) => {
  state = found;
  if (found === "log-in") {
    find("content").hidden = true;
    find("log-in").hidden = false;
    find("token").focus();
  }
  showConnection();
});

function showFleet(update) {
  ({ sites, workers, gaps, health } = update);
  ask.setCameras(cameras.names());
  showSites();
  showWorkers();
  showTotals();
  showNotices();
  showConnection();
}

function showConnection() {
  const problem = state === "live" && !health.ready;
  const pill = find("connection");
  setAttribute(pill, "data-state", problem ? "problem" : state);
  setText(pill, problem ? "Problem" : { live: "Live", connecting: "Reconnecting", "log-in": "Logged out" }[state]);
}

function showTotals() {
  const online = workers.filter((worker) => worker.online).length;
  setText(find("totals"), `${cameras.onlineCount()} of ${count(cameras.names().length, "camera")} online, ${count(online, "worker")}`);
}

function showNotices() {
  const found = health.problems.map((problem) => element("p", { class: "notice", "data-level": "critical", role: "alert", text: sentence(problem) }));
  const [gap] = gaps;
  if (gap && isRecent(gap.ended)) {
    const text = `Not heard from ${time(gap.began)} to ${time(gap.ended)}: ${gap.reason}.`;
    found.push(element("p", { class: "notice", "data-level": gap.kept ? "info" : "warning", text }));
  }
  replace(find("notices"), found);
}

function showAlerts() {
  const all = [...alerts.values()].sort((one, other) => (one.ended === null ? 0 : 1) - (other.ended === null ? 0 : 1) || other.id - one.id);
  const open = all.filter((alert) => alert.ended === null);
  const shown = [...open, ...all.filter((alert) => alert.ended !== null).slice(0, SHOWN_OVER)];
  find("alerts-section").hidden = shown.length === 0;
  setText(find("alerts-title"), open.length === 0 ? "Alerts" : `Alerts (${open.length} open)`);
  document.title = open.length === 0 ? "Latentbus" : `(${open.length}) Latentbus`;
  replace(find("alerts"), shown.map((alert) => {
    const over = alert.ended !== null;
    const when = over ? `over since ${time(alert.ended)}` : `since ${time(alert.began)}`;
    const basis = hasPrefix(alert.answer) ? `, ${prefix(alert.answer)}` : "";
    return element("li", { class: "alert", "data-level": alert.severity, "data-over": String(over) },
      alert.source === "system" ? sentence(alert.text) : alert.text,
      element("span", { class: "when", text: `${alert.rule}, ${over ? "" : `${alert.severity}, `}${when}${basis}` }));
  }));
}

function showSites() {
  const most = Math.max(1, ...sites.map((site) => site.latent_bytes_per_minute));
  const kbps = (site) => `${(site.latent_bytes_per_minute * 8 / 60 / 1000).toFixed(2)} kbps`;
  replace(find("sites"), sites.map((site) => element("li", {},
    element("span", { class: "who" }, site.site,
      element("span", { class: "more", text: `${count(site.cameras.length, "camera")}${site.online ? LEFT_OUT[site.uplink] : ", offline"}` })),
    sites.length > 1 ? bar(site.latent_bytes_per_minute / most) : element("span"),
    element("span", { class: "number" }, kbps(site), element("span", { class: "more", text: `${count(site.frames_per_minute, "frame")} a minute` })))));
}

function showWorkers() {
  replace(find("workers"), workers.map((worker) => element("li", {},
    element("span", { class: "who" }, worker.worker,
      element("span", { class: "more", text: `pool ${worker.pool ?? "–"}${worker.online ? (worker.capacity === 0 ? ", draining" : "") : ", offline"}` })),
    bar(worker.capacity === 0 ? 0 : worker.frames / worker.capacity),
    element("span", { class: "number", text: worker.online ? `${worker.frames} of ${worker.capacity}` : "–" }))));
}

// Replaces the children only where what is shown differs.
function replace(parent, children) {
  const now = children.map((child) => child.outerHTML).join("");
  if (parent.shown === now) return;
  parent.shown = now;
  parent.replaceChildren(...children);
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);

// ---- history -------------------------------------------------------------------------------------------------------

let nextBefore = null;

async function search(older) {
  const query = new URLSearchParams({ limit: String(PAGE) });
  if (find("history-camera").value) query.set("camera", find("history-camera").value);
  if (find("history-text").value) query.set("text", find("history-text").value);
  if (older && nextBefore !== null) query.set("before", String(nextBefore));
  const problem = find("history-problem");
  setText(problem, "");
  try {
    const response = await fetch(`/v1/history?${query}`);
    const found = await response.json();
    if (!response.ok) throw new Error(found.problem);
    const rows = [
      ...found.outcomes.map((outcome) => [outcome.at, outcomeRow(outcome)]),
      ...found.gaps.map((gap) => [gap.ended, element("li", { class: "gap", text: `${time(gap.began)} to ${time(gap.ended)}: ${gap.reason}` })]),
    ].sort((one, other) => other[0] - one[0]).map(([, row]) => row);
    const list = find("outcomes");
    if (!older) list.replaceChildren();
    list.append(...rows);
    if (list.children.length === 0) list.append(element("li", { class: "muted", text: "Nothing found." }));
    nextBefore = found.next_before;
    find("older").hidden = nextBefore === null;
  } catch (error) {
    setText(problem, error instanceof TypeError ? "the gateway is out of reach" : error.message);
  }
}

function outcomeRow(outcome) {
  return element("li", {},
    element("span", { class: "muted", title: ago(outcome.at), text: time(outcome.at) }),
    element("span", { text: outcome.camera }),
    element("span", { class: "asked-text", text: outcome.question ?? outcome.question_id }),
    element("span", { class: "text", text: outcome.text || outcome.outcome, title: outcome.reason }),
    element("span", { class: "muted cost", text: hasPrefix(outcome) ? prefix(outcome) : outcome.reason }));
}

// ---- beginning -----------------------------------------------------------------------------------------------------

find("history-form").addEventListener("submit", (event) => {
  event.preventDefault();
  search(false);
});
find("older").addEventListener("click", () => search(true));
find("filter").addEventListener("input", (event) => cameras.filter(event.target.value));
find("log-in-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const response = await fetch("/v1/session", {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ token: find("token").value }),
  });
  setText(find("log-in-problem"), response.ok ? "" : (await response.json()).problem);
  if (!response.ok) return;
  find("token").value = "";
  stream.start();
});
find("log-out").addEventListener("click", async () => {
  await fetch("/v1/session", { method: "DELETE" });
  location.reload();
});
ask.prepare();
setInterval(cameras.tick, 1000);
stream.start();
