// Live music: a session of the server, played by an AudioWorklet with a buffer; its controls act from the next patch on.
import {ask, find, guarded, h, say, send} from "./api.js";

const START = 1.5;  // seconds that are there before it plays
const HEADER = 44;  // bytes of a wav before its samples
const WAIT = 200;  // ms in which several moves of a slider are one change
const RANGES = {density: [0, 12, 0.5], tempo: [0, 240, 5], style: [-1, 60, 1], truncation: [0.1, 3.9, 0.1]};
const NAMES = {density: ["as it comes", " notes per s"], tempo: ["as it comes", " beats per min"], style: ["of the seed", ""]};

/** The tab; `submitted(job)` gets the job of a session. Its `update(job)` is called whenever a job has changed; the controls are restored when it resolves. */
export function liveTab(model, submitted) {
  const form = find("#live form"), e = form.elements, button = find(".go", form), meter = find("meter", form);
  let id = "", stop = null, waiting = {}, timer = 0, from = 0, starting = false, restored = null;
  const line = text => { find(".status", form).textContent = text; };
  const shown = () => {
    button.textContent = stop ? "Stop" : id ? "Play on" : "Play";
    for (const name of ["artist", "genre", "seconds", "seed"]) e[name].disabled = Boolean(id);
    meter.value = stop ? meter.value : 0;
  };

  // ---- controls

  const parameters = Object.keys(RANGES).map(which => (model.routes[model.live_route] || []).find(each => each.name === which)).filter(Boolean);
  const sliders = new Map(parameters.map(each => {
    const [min, max, step] = RANGES[each.name], value = h("b");  // no output element: the label would be of it
    const input = h("input", {type: "range", min, max, step, name: each.name, value: each.default, oninput: () => {
      name(each.name);
      waiting[each.name] = Number(input.value);
      clearTimeout(timer);
      if (id) timer = setTimeout(guarded(change), WAIT);
    }});
    find(".controls", form).append(h("label", {title: each.about}, `${each.name} `, value, input));
    return [each.name, [input, value]];
  }));
  const name = which => {
    const [input, value] = sliders.get(which), [unset, unit] = NAMES[which] || ["", ""];
    value.textContent = unset && Number(input.value) === Number(input.min) ? unset : `${input.value}${unit}`;
    input.setAttribute("aria-valuetext", value.textContent);
  };
  const restore = values => sliders.forEach(([input], which) => {
    input.value = values[which] ?? input.value;
    name(which);
  });
  const change = async () => {
    const values = waiting;
    waiting = {};
    await send(`/api/live/${id}/controls`, {values});
  };

  // ---- sound

  const play = async () => {
    if (!window.AudioWorkletNode) throw new Error("this browser plays live sound only on pages of this machine or over https");
    const context = new AudioContext({sampleRate: model.sample_rate, latencyHint: "playback"}), cut = new AbortController();
    stop = () => {
      stop = null;
      cut.abort();
      context.close();
      shown();
    };
    shown();
    try {
      await context.audioWorklet.addModule("worklet.js");
      const node = new AudioWorkletNode(context, "live-player", {numberOfInputs: 0, outputChannelCount: [model.channels],
        processorOptions: {start: START * model.sample_rate}});
      node.connect(context.destination);
      await context.resume();
      const silent = new Promise(resolve => {
        node.port.onmessage = ({data}) => {
          if (!stop) return;
          meter.value = data.peak;
          line(`second ${(from + data.played).toFixed(1)}, ${data.held.toFixed(1)} s ready, ${data.underruns} underrun${data.underruns === 1 ? "" : "s"}`);
          if (data.silent) resolve();
        };
      });
      await fetched(cut.signal, block => node.port.postMessage(block, block.map(each => each.buffer)));
      node.port.postMessage("end");
      await silent;
      const job = await ask(`/api/jobs/${id}`);
      if (job.state === "running") line("another page plays this session now");
    } catch (error) {
      if (!cut.signal.aborted) throw error;
    } finally {
      stop?.();
    }
  };

  /** Read the stream; `got` is called with the channels of each piece. */
  const fetched = async (signal, got) => {
    const answer = await fetch(`/api/live/${id}/sound`, {signal});
    if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).error || `the server answered ${answer.status}`);
    const reader = answer.body.getReader(), frame = 2 * model.channels;
    let rest = new Uint8Array(0), skipped = 0;
    for (;;) {
      const {done, value} = await reader.read();
      if (done) return;
      const skip = Math.min(HEADER - skipped, value.length), bytes = new Uint8Array(rest.length + value.length - skip);
      skipped += skip;
      bytes.set(rest);
      bytes.set(value.subarray(skip), rest.length);
      const count = Math.floor(bytes.length / frame), view = new DataView(bytes.buffer);
      rest = bytes.slice(count * frame);
      if (count) got(Array.from({length: model.channels}, (_, c) =>
        Float32Array.from({length: count}, (_, i) => view.getInt16(frame * i + 2 * c, true) / 32768)));
    }
  };

  form.addEventListener("submit", guarded(async event => {
    event.preventDefault();
    if (stop) {
      stop();
      await ask(`/api/jobs/${id}`, {method: "DELETE"});
    } else if (id) {
      from = (await ask(`/api/live/${id}`)).fetched;
      await play();
    } else {
      const more = Object.fromEntries([...sliders].map(([which, [input]]) => [which, Number(input.value)]));
      starting = true;  // events of the job may come before the answer
      const job = await send("/api/jobs", {kind: "live", artist: e.artist.value, genre: e.genre.value, seed: Number(e.seed.value),
        seconds: Number(e.seconds.value), params: {more}}).finally(() => { starting = false; });
      id = job.id;
      from = 0;
      waiting = {};
      line("it begins ..");
      submitted(job);
      await play();
    }
  }));

  const update = guarded(async job => {
    if (job.kind !== "live") return;
    const over = !["queued", "running"].includes(job.state);
    if (over && job.id === id) {
      id = "";
      if (job.error) line(job.error);
      else if (!stop) line("it has ended");
    } else if (!over && !id && !starting) {  // this page was loaded again, or another one has begun it
      id = job.id;
      restored = ask(`/api/live/${id}`).then(session => restore(session.values)).finally(() => { restored = null; });
      line(`a session plays since ${new Date(1000 * job.created).toLocaleTimeString()}; it ends when nobody plays it on`);
    }
    if (job.state === "queued" && job.id === id) line(`in the queue, place ${job.place}`);
    shown();
    await restored;
  });

  form.hidden = !model.live;
  Object.assign(find("#no-live"), {hidden: model.live, textContent: model.live_missing || ""});
  if (model.live) find(".patch", form).textContent = `A change acts from the next patch on, every ${model.patch_seconds.toFixed(2)} s, and is in the sound some seconds later.`;
  Object.assign(e.seconds, {max: model.limits.max_live, value: Math.min(e.seconds.value, model.limits.max_live)});
  restore({});
  return {update};
}
