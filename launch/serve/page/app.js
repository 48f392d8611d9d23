// The page: tabs, jobs with their progress, the library. It has no state of its own: after a reload it asks the server again.
import {all, ask, at, clock, find, guarded, h, say} from "./api.js";
import {offerRuns, setUp} from "./forms.js";
import {showSong} from "./song.js";
import {spacePlays} from "./wave.js";

const model = await ask("/api/model").catch(error => {
  say(error.message);
  throw error;
});
const followed = new Map();  // id of a job -> its EventSource
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
  wanted = job.id;
  follow(job);
  find("#jobs").scrollIntoView({block: "nearest"});
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
  if (job.state === "running" && ["sample", "branch"].includes(job.kind)) row.append(...live(item, job));
  if (job.state === "done" || (job.state === "cancelled" && !job.run.endsWith(".run"))) button("Open", () => openRun(job.run));
  const focused = item.contains(document.activeElement) && document.activeElement.textContent;
  item.replaceChildren(...lines, row);
  if (focused) [...row.children].find(each => each.textContent === focused)?.focus();
}

/** A player of the audio that has been sampled so far, which stays while the job is shown again. */
function live(item, job) {
  const playing = find("audio", item);
  if (playing) return [playing];
  return [h("button", {type: "button", onclick: event => {
    event.target.replaceWith(h("audio", {controls: true, autoplay: true, src: at(job.run, "stream", {take: 1}), "aria-label": "live"}));
  }}, "Play while it is sampled")];
}

function follow(job) {
  show(job);
  if (isOver(job) || followed.has(job.id)) return;
  const source = new EventSource(`/api/jobs/${job.id}/events`);
  followed.set(job.id, source);
  source.onmessage = guarded(async event => {
    const now = JSON.parse(event.data);
    show(now);
    if (!isOver(now)) return;
    source.close();
    followed.delete(job.id);
    await refresh();
    if (now.state === "done" && now.id === wanted) await openRun(now.run);
  });
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
  for (const form of all("form")) offerRuns(form, runs);
}

const openRun = name => showSong(name, model, actions);
const actions = {
  submitted, gone: refresh,
  edit: async run => {
    open("edit", true);
    await find("#edit form").useRun(run);
  },
};

// ---- begin

find("#model").textContent = `${model.name}, ${model.sample_rate} Hz`;
for (const kind of ["artists", "genres"]) find(`#${kind}`).append(...model[kind].map(value => h("option", {value})));
for (const form of all("form")) setUp(form, model, submitted);
find("#no-edit").hidden = Boolean(model.edit);
find("#edit form").hidden = !model.edit;
spacePlays();
const first = location.hash.slice(1);
open(tabs.some(tab => tab.getAttribute("aria-controls") === first) ? first : "write");
await refresh().catch(error => say(error.message));
for (const job of (await ask("/api/jobs")).slice(0, 30).reverse()) follow(job);
document.documentElement.dataset.ready = "true";
