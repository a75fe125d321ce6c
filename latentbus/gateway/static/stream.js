// The stream of events: it is opened again whenever it breaks, and begins with everything each time.

const EVENTS = ["snapshot", "answer", "fleet", "cameras", "alert"];
const FIRST_WAIT_MS = 1000;
const LONGEST_WAIT_MS = 15000;

// take: what to do with each event. changed: told "live", "connecting" or "log-in".
export function follow(take, changed) {
  let source = null;
  let waitMs = FIRST_WAIT_MS;
  let timer = null;

  function open() {
    timer = null;
    source = new EventSource("/v1/events");
    source.onopen = () => { waitMs = FIRST_WAIT_MS; };
    for (const name of EVENTS) {
      source.addEventListener(name, (event) => {
        take[name](JSON.parse(event.data));
        if (name === "snapshot") changed("live");
      });
    }
    source.onerror = () => {
      changed("connecting");
      // The browser tries again itself where the connection broke, but not where it was refused.
      if (source.readyState === EventSource.CLOSED) refused();
    };
  }

  async function refused() {
    source.close();
    let status = 0;
    try {
      status = (await fetch("/v1/session", { cache: "no-store" })).status;
    } catch {
      // The gateway is away.
    }
    if (status === 401) {
      changed("log-in");
      return;
    }
    timer = setTimeout(open, waitMs);
    waitMs = Math.min(LONGEST_WAIT_MS, 2 * waitMs);
  }

  return {
    start() {
      if (timer !== null) clearTimeout(timer);
      if (source !== null) source.close();
      open();
    },
  };
}

// The events of an answer to a request: name and data, one after the other.
export async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value.replaceAll("\r\n", "\n");
    let end;
    while ((end = rest.indexOf("\n\n")) >= 0) {
      const lines = rest.slice(0, end).split("\n");
      rest = rest.slice(end + 2);
      const field = (name) => lines.filter((line) => line.startsWith(`${name}: `)).map((line) => line.slice(name.length + 2));
      const [event] = field("event");
      if (event) yield { event, data: JSON.parse(field("data").join("\n")) };
    }
  }
}
