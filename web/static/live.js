// The live link of a page: one event stream while the page is seen, polling when there is none, and times in the reader's zone.
const POLL_MS = 5000;
const BACKOFF_FIRST_MS = 500;
const BACKOFF_MAX_MS = 30000;
const AWAY_AFTER = 2;

const { events, archive } = document.body.dataset;
const strip = document.getElementById("link-state");
let since = document.body.dataset.since;
let source = null;
let failures = 0;
let retry = 0;
let polling = 0;

const tell = (name, detail) => document.body.dispatchEvent(new CustomEvent(name, { detail }));

function show(text, live) {
  strip.hidden = false;
  strip.classList.toggle("is-live", live);
  if (strip.textContent !== text) strip.textContent = text;
}

function close() {
  clearTimeout(retry);
  source?.close();
  source = null;
  poll(false);
}

function poll(wanted) {
  if (wanted && !polling) polling = setInterval(() => tell("refresh"), POLL_MS);
  if (!wanted) polling = clearInterval(polling) ?? 0;
}

function open() {
  clearTimeout(retry);
  source?.close();
  if (document.hidden) return;
  const mine = new EventSource(`${events}?since=${encodeURIComponent(since)}`);
  source = mine;
  mine.onopen = () => {
    // After a time of polling or of nothing at all the page may be behind.
    if (failures >= AWAY_AFTER) tell("refresh");
    failures = 0;
    poll(false);
    show("Live", true);
  };
  mine.onerror = () => {
    if (source !== mine) return;
    mine.close();
    source = null;
    failures += 1;
    if (failures >= AWAY_AFTER) {
      show("Reconnecting", false);
      poll(true);
    }
    const wait = Math.min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS * 2 ** (failures - 1));
    retry = setTimeout(open, wait * (0.5 + Math.random() / 2));
  };
  for (const [kind, take] of Object.entries(takers)) {
    mine.addEventListener(kind, (event) => {
      since = event.lastEventId;
      take(JSON.parse(event.data));
    });
  }
}

const takers = {
  snapshot(news) {
    news.probes.forEach(offer);
    archived(news.archive);
    tell("refresh");
  },
  probe(news) {
    offer(news);
    tell(document.getElementById(`probe-${news.name}`) ? `probe-${news.name}` : "probes");
  },
  progress(news) {
    for (const place of document.querySelectorAll(`[data-test="${CSS.escape(news.id)}"]`)) {
      // A new state or step changes more than figures: the server draws it.
      if (place.dataset.state !== undefined && `${place.dataset.state} ${place.dataset.part ?? ""}` !== `${news.state} ${news.part ?? ""}`) {
        const redraw = place.dataset.part !== undefined || place.dataset.state !== news.state;
        place.dataset.part = news.part ?? "";
        if (redraw) tell(`test-${news.id}`);
      }
      for (const [key, text] of Object.entries(news.text)) {
        for (const spot of place.querySelectorAll(`[data-live="${key}"]`)) spot.textContent = text;
      }
      if (news.percent !== null) for (const bar of place.querySelectorAll("[data-live-percent]")) bar.value = news.percent;
    }
    tell("progress", news);
  },
  result: (news) => tell(`test-${news.id}`),
  archive: (news) => archived(news.revision) && tell("archive"),
  targets: () => tell("targets"),
  fabric: () => tell("fabric"),
};

function archived(revision) {
  const changed = String(revision) !== archive;
  const hint = document.getElementById("archive-news");
  if (changed && hint) hint.hidden = false;
  return changed;
}

// The list to choose a probe from follows the probes; what is chosen stays chosen.
function offer({ name, label, gone }) {
  const list = document.querySelector("[data-probes]");
  if (!list) return;
  const known = [...list.options].find((option) => option.value === name);
  if (known) known.textContent = gone ? `${name} (gone)` : label;
  else if (!gone) {
    if (list.options.length === 1 && !list.options[0].value) list.remove(0);
    list.add(new Option(label, name));
  }
}

// --- times ---------------------------------------------------------------------------------------------------------------
const exact = new Intl.DateTimeFormat("sv-SE", { dateStyle: "short", timeStyle: "medium" });
const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;

function ago(then) {
  const gone = Math.max(0, Math.floor((Date.now() - then) / 1000));
  if (gone < 5) return "just now";
  if (gone < 60) return `${gone}\u00a0s ago`;
  if (gone < 3600) return `${Math.floor(gone / 60)}\u00a0min ago`;
  if (gone < 86400) return `${Math.floor(gone / 3600)}\u00a0h ago`;
  const days = Math.floor(gone / 86400);
  return `${days}\u00a0day${days > 1 ? "s" : ""} ago`;
}

function times() {
  for (const place of document.querySelectorAll("time[data-stamp]:not([data-done])")) {
    place.dataset.done = "";
    place.title = `${place.textContent} (shown: ${zone})`;
    place.textContent = exact.format(new Date(place.dateTime));
  }
  for (const place of document.querySelectorAll("time[data-ago]")) {
    const text = ago(Date.parse(place.dateTime));
    if (place.textContent !== text) place.textContent = text;
  }
  for (const place of document.querySelectorAll("[data-zone]")) if (place.textContent !== zone) place.textContent = zone;
}

times();
setInterval(times, 5000);
document.body.addEventListener("htmx:afterSettle", times);
document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
addEventListener("pagehide", close);
addEventListener("pageshow", () => source || open());
