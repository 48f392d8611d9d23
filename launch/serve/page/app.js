// The page: tabs, jobs with their progress, the library. It has no state of its own: after a reload it asks the server again.
import {all, ask, at, clock, find, guarded, h, say} from "./api.js";
import {offerRuns, setUp} from "./forms.js";
import {liveTab} from "./live.js";
import {showSong} from "./song.js";
import {spacePlays} from "./wave.js";

const model = await ask("/api/model").catch(error => {
  say(error.message);
  throw error;
});
const latest = new Map();  // id of a job -> the job as it was seen last
const SHOWN = 30;  // jobs
let wanted = "";  // the job whose run is shown when it is done

// ---- tabs

const tabs = all("[role=tab]");

function open(name, focus = false) {
  for (const tab of tabs) {
    const chosen = tab.getAttribute("aria-controls") === name;
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
    find(`#${tab.getAttribute("aria-controls")}`).hidden = !chosen;
    if (chosen && focus) tab.focus();
  }
  if (location.hash !== `#${name}`) history.replaceState(null, "", `#${name}`);
}

for (const [i, tab] of tabs.entries()) {
  tab.addEventListener("click", () => open(tab.getAttribute("aria-controls")));
  tab.addEventListener("keydown", event => {
    const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (step) open(tabs[(i + step + tabs.length) % tabs.length].getAttribute("aria-controls"), true);
  });
}

// ---- jobs

const states = {queued: "in the queue", running: "running", done: "done", failed: "failed", cancelled: "cancelled"};
const isOver = job => !["queued", "running"].includes(job.state);

function submitted(job) {
  const now = latest.get(job.id) || job;  // an event may have come first
  if (job.kind !== "live") wanted = job.id;
  latest.set(job.id, {...now, state: "queued"});
  update(now);
  find("#jobs").scrollIntoView({block: "nearest"});
}

/** A job has changed, or is seen for the first time. */
const update = guarded(async job => {
  const before = latest.get(job.id);
  if (before && isOver(before) && !isOver(job)) return;  // an answer that is older than the last event
  latest.set(job.id, job);
  show(job);
  await live.update(job);
  if (!before || isOver(before) || !isOver(job)) return;
  await refresh();
  if (job.state === "done" && job.id === wanted) await openRun(job.run);
});

/** One connection for all jobs: a browser has six to a server. After an interruption the page asks for all of them. */
function follow() {
  const source = new EventSource("/api/events");
  source.onmessage = event => update(JSON.parse(event.data));
  return new Promise(resolve => {
    source.onopen = guarded(async () => {
      for (const job of (await ask("/api/jobs")).slice(0, SHOWN).reverse()) await update(job);
      resolve();
    });
  });
}

function show(job) {
  const item = find(`[data-job="${job.id}"]`) || h("li", {"data-job": job.id});
  if (!item.isConnected) find("#jobs").prepend(item);
  find("#no-jobs").hidden = true;
  const what = [job.kind, job.request.artist, job.request.seconds && `${job.request.seconds} s`].filter(Boolean).join(" ");
  const left = job.state === "running" && job.seconds_left != null ? `, ${clock(job.seconds_left)} left` : "";
  const place = job.state === "queued" && job.place ? `, place ${job.place}` : "";
  const lines = [h("div", {}, what, " ", h("span", {class: "soft state"}, `${states[job.state]}${place}${left}`))];
  if (!isOver(job)) lines.push(h("progress", {max: "1", value: String(job.share), "aria-label": `progress of ${what}`}));
  for (const note of job.notes) lines.push(h("p", {class: "soft"}, note));
  if (job.error) lines.push(h("p", {class: "warning"}, job.error));
  const row = h("div", {class: "row"});
  const button = (text, action) => row.append(h("button", {type: "button", onclick: guarded(action)}, text));
  if (!isOver(job)) button("Cancel", () => ask(`/api/jobs/${job.id}`, {method: "DELETE"}));
  if (job.state === "running" && ["sample", "branch"].includes(job.kind)) row.append(...player(item, job));
  if (job.run && (job.state === "done" || (job.state === "cancelled" && !job.run.endsWith(".run")))) button("Open", () => openRun(job.run));
  const focused = item.contains(document.activeElement) && document.activeElement.textContent;
  item.replaceChildren(...lines, row);
  if (focused) [...row.children].find(each => each.textContent === focused)?.focus();
}

/** A player of the audio that has been sampled so far, which stays while the job is shown again. */
function player(item, job) {
  const playing = find("audio", item);
  if (playing) return [playing];
  return [h("button", {type: "button", onclick: event => {
    event.target.replaceWith(h("audio", {controls: true, autoplay: true, src: at(job.run, "stream", {take: 1}), "aria-label": "live"}));
  }}, "Play while it is sampled")];
}

// ---- library

async function refresh() {
  const runs = await ask("/api/runs");
  find("#no-runs").hidden = runs.length > 0;
  find("#runs").replaceChildren(...runs.map(run => {
    const name = [run.verb, run.artist, run.genre].filter(Boolean).join(", ");
    const about = run.error || `${run.seconds.toFixed(1)} s, seed ${run.seed}, ${run.takes} take${run.takes > 1 ? "s" : ""}`;
    const unfinished = !run.error && run.share < 1 ? `, ${Math.round(100 * run.share)} % done` : "";
    return h("li", {}, h("div", {}, name || run.name, " ", h("span", {class: "soft"}, about + unfinished)),
      h("div", {class: "row"}, h("button", {type: "button", "aria-label": `open ${run.name}`, onclick: guarded(() => openRun(run.name))}, "Open"),
        h("span", {class: "soft"}, run.name)));
  }));
  for (const form of all("form:not([data-kind=live])")) offerRuns(form, runs);
}

const openRun = name => showSong(name, model, actions);
const actions = {
  submitted, gone: refresh,
  edit: async (run, take, second) => {
    open("edit", true);
    await find("#edit form").useRun(run, take, second);
  },
};

// ---- begin

find("#model").textContent = `${model.name}, ${model.sample_rate} Hz`;
for (const kind of ["artists", "genres"]) find(`#${kind}`).append(...model[kind].map(value => h("option", {value})));
for (const form of all("form:not([data-kind=live])")) setUp(form, model, submitted);
const live = liveTab(model, submitted);
find("#no-edit").hidden = Boolean(model.edit);
find("#edit form").hidden = !model.edit;
spacePlays();
const first = location.hash.slice(1);
open(tabs.some(tab => tab.getAttribute("aria-controls") === first) ? first : "write");
await refresh().catch(error => say(error.message));
await follow();
document.documentElement.dataset.ready = "true";
