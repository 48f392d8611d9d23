// The three forms: their shared parts, the plan that follows what is typed, and the request that a form stands for.
import {all, ask, at, clock, find, guarded, h, say, send} from "./api.js";
import {record} from "./record.js";
import {selectable} from "./wave.js";

const number = input => (input.value.trim() === "" ? NaN : Number(input.value));

/** Put the shared parts into a form, and make it work; `submitted(job)` gets the job. */
export function setUp(form, model, submitted) {
  for (const place of all("[data-part]", form)) {
    place.append(find(`#part-${place.dataset.part}`).content.cloneNode(true));
    if (place.dataset.part === "submit") find(".go", place).textContent = place.dataset.label;
    if (place.dataset.part === "recording" && !("runs" in place.dataset)) find(".from-runs", place).remove();
  }
  const route = form.elements.route;
  if (route) {
    route.append(...Object.keys(model.routes).map(name => h("option", {value: name}, name)));
    route.addEventListener("change", () => showParams(form, model.routes[route.value]));
  }
  showParams(form, route ? model.routes[route.value] : model.edit || []);
  for (const [name, most] of [["seconds", model.limits.max_seconds], ["takes", model.limits.max_takes]])
    if (form.elements[name]) Object.assign(form.elements[name], {max: most, value: Math.min(form.elements[name].value, most)});
  if (find("[data-part=recording]", form)) recordings(form);
  for (const radio of all("[name=verb]", form)) radio.addEventListener("change", () => showVerb(form));
  showVerb(form);
  let timer = 0;
  const replan = () => {
    clearTimeout(timer);
    timer = setTimeout(() => plan(form), 400);
  };
  form.addEventListener("input", replan);
  form.addEventListener("change", replan);
  form.addEventListener("submit", guarded(async event => {
    event.preventDefault();
    const button = find(".go", form);
    button.disabled = true;
    try {
      submitted(await send("/api/jobs", request(form)));
    } finally {
      button.disabled = false;
    }
  }));
}

function showVerb(form) {
  const verb = form.elements.verb?.value;
  for (const label of verb ? all("[data-of]", form) : []) {
    label.hidden = !label.dataset.of.split(" ").includes(verb);
    find("input", label).disabled = label.hidden;
  }
}

/** A field for each parameter of sampling that the priors of a route have. */
function showParams(form, parameters) {
  const fields = parameters.map(each => {
    const type = each.type === "yes/no" ? {type: "checkbox", checked: each.default === true} : {type: "text", value: String(each.default)};
    const input = h("input", {...type, name: `param-${each.name}`, "data-default": String(each.default)});
    return h("label", {title: each.about}, `${each.name.replaceAll("_", " ")} `, input);
  });
  find(".params", form).replaceChildren(...fields);
}

/** The parameters that are not the defaults, as they are typed: the server reads them. */
function params(form) {
  const more = {};
  for (const input of all("[name^=param-]", form)) {
    const value = input.type === "checkbox" ? String(input.checked) : input.value.trim();
    if (value === input.dataset.default) continue;
    more[input.name.slice(6)] = value;
  }
  return {more};
}

/** What a form asks for, as the API takes it. */
export function request(form) {
  const e = form.elements, kind = e.verb?.value || form.dataset.kind;
  const made = {kind, artist: e.artist.value, genre: e.genre.value, lyrics: e.lyrics.value, seed: number(e.seed), params: params(form)};
  if (e.route) Object.assign(made, {route: e.route.value, takes: number(e.takes), seconds: number(e.seconds)});
  if (e.recording) {
    if (!e.recording.value) throw new Error("choose a recording first");
    made.recording = e.recording.value;
    made.take = Number(e.recording.dataset.take);
  }
  const start = e.start && number(e.start), end = e.end && number(e.end);
  if (kind === "continue") {
    delete made.take;
    Object.assign(made, {start, prompt_seconds: end - start});
  }
  if (kind === "edit" || kind === "vary") Object.assign(made, {start, end});
  if (kind === "vary") made.prompt = {periodic: number(e.periodic)};
  if (kind === "extend") Object.assign(made, {before: number(e.before), after: number(e.after)});
  return made;
}

/** Show what a job would take, or why it cannot be. */
async function plan(form) {
  const place = find(".plan", form);
  let line = "";
  try {
    const made = await send("/api/plan", request(form));
    const gb = bytes => `${(bytes / 1e9).toFixed(2)} GB`;
    line = `${made.seconds == null ? "" : `about ${clock(made.seconds)}, `}${gb(made.memory)} of ${gb(made.available)} memory`;
    line = [line, ...made.notes].join("; ");
  } catch (error) {
    line = error.message;
  }
  place.textContent = line;
}

/** The recording of a form: a file, the microphone, or a run; and the region of it that is selected. */
function recordings(form) {
  const place = find("[data-part=recording]", form), e = form.elements;
  const wave = find(".wave", place), play = find(".play", place), source = find(".source", place);
  let shown = null;
  const select = () => shown?.select(number(e.start), number(e.end));
  const show = (id, name, seconds, url, take = 1, first = 0) => {
    Object.assign(e.recording, {value: id}).dataset.take = take;
    find(".recording-name", place).textContent = `${name}, ${seconds.toFixed(2)} s`;
    wave.hidden = play.hidden = false;
    shown?.player.destroy();
    Object.assign(e.start, {value: first, max: seconds});
    Object.assign(e.end, {value: Math.min(seconds, first + (form.dataset.kind === "edit" ? 1 : 12)).toFixed(2), max: seconds});
    shown = selectable(wave, url, (start, end) => {
      e.start.value = start.toFixed(2);
      e.end.value = Math.min(end, seconds).toFixed(2);
      form.dispatchEvent(new Event("input"));
    });
    shown.player.on("ready", select);
    form.dispatchEvent(new Event("input"));
  };
  const upload = async (blob, name) => {
    const url = `/api/uploads?${new URLSearchParams({name})}`;
    find(".recording-name", place).textContent = "uploading ..";
    try {
      const made = await ask(url, {method: "POST", headers: {"content-type": "application/octet-stream"}, body: blob});
      show(made.id, made.name, made.seconds, URL.createObjectURL(blob));
    } catch (error) {
      find(".recording-name", place).textContent = "";
      throw error;
    }
  };
  find("[type=file]", place).addEventListener("change", guarded(async event => {
    const file = event.target.files[0];
    if (file) await upload(file, file.name);
  }));
  find(".record", place).addEventListener("click", guarded(() => record(find(".record", place), blob => upload(blob, "recorded.wav"))));
  play.addEventListener("click", () => shown.player.playPause());
  for (const input of [e.start, e.end]) input.addEventListener("change", select);
  source?.addEventListener("change", guarded(async () => {
    if (source.value) await form.useRun(source.value);
  }));
  form.useRun = async (run, take = 1, second = 0) => {
    const made = await ask(`/api/runs/${encodeURIComponent(run)}`), song = made.samples[take - 1];
    if (song.seconds == null) throw new Error("this run has no audio yet; resume it first");
    Object.assign(e.artist, {value: song.artist}), Object.assign(e.genre, {value: song.genre});
    show(run, take > 1 ? `${run}, take ${take}` : run, song.seconds, at(run, "audio", {take}), take, Math.min(second, Math.max(0, song.seconds - 0.1)));
  };
}

/** The runs among which a form's source is chosen. */
export function offerRuns(form, runs) {
  const source = find(".source", form);
  if (!source) return;
  const options = runs.filter(run => run.share === 1).map(run => h("option", {value: run.name}, `${run.verb} ${run.artist} ${run.name}`));
  const before = source.value;
  source.replaceChildren(h("option", {value: ""}, "choose"), ...options);
  source.value = before;
}
