// One run: its takes to play, its picture, its words that follow the audio, downloads, and the branch from any second.
import {ask, at, find, guarded, h, send} from "./api.js";
import {waveform} from "./wave.js";

const FORMS = {wav16: "wav, 16 bits", wav24: "wav, 24 bits", wav32f: "wav, floats", flac: "flac", mp3: "mp3"};
const WORDS = ["lrc", "srt", "vtt", "labels.txt"];
let player = null, turn = 0;

/** Show a run below the tabs; `actions` has submitted(job), edit(run, take, second) and gone(). */
export async function showSong(name, model, actions, take = 1) {
  const place = find("#song"), own = ++turn;
  place.inert = true;  // its buttons are of the run before
  const run = await ask(`/api/runs/${encodeURIComponent(name)}`).finally(() => { place.inert = false; });
  if (own !== turn) return;  // another run was opened in the meantime, or this one was deleted
  close();
  const song = run.samples[take - 1], title = [song.artist, song.genre].filter(Boolean).join(", ") || run.verb;
  place.hidden = false;
  place.replaceChildren(
    h("h2", {id: "song-title", tabindex: "-1"}, `${title}, seed ${run.seed} `, h("span", {class: "soft"}, name)),
    takes(run, take, number => showSong(name, model, actions, number)),
    ...song.warnings.map(text => h("p", {class: "warning"}, text)),
  );
  if (song.seconds == null) place.append(h("p", {class: "soft"}, "There is no audio of this take yet."));
  else place.append(...audible(run, name, take, song));
  place.append(...(run.jobs.length ? [] : buttons(run, name, take, model, actions)), settings(run));
  find("#song-title").focus({preventScroll: true});
  place.scrollIntoView({block: "nearest"});
}

/** Hide the run, and cancel the requests of its audio and picture. */
function close() {
  turn += 1;
  player?.destroy();
  player = null;
  find("#song .picture img")?.removeAttribute("src");
  find("#song").hidden = true;
}

function takes(run, current, choose) {
  const buttons = run.samples.map((_, i) =>
    h("button", {type: "button", "aria-pressed": String(i + 1 === current), onclick: guarded(() => choose(i + 1))}, `Take ${i + 1}`));
  return h("div", {class: "takes", role: "group", "aria-label": "takes"}, ...(buttons.length > 1 ? buttons : []));
}

/** The waveform with its button, the picture, before and after, the words, and the downloads. */
function audible(run, name, take, song) {
  const wave = h("div", {class: "wave"}), head = h("i"), from = find("#branch-from");
  const result = at(name, "audio", {take});
  player = waveform(wave, result);
  const play = h("button", {type: "button", class: "go", onclick: () => player.playPause()}, "Play");
  const now = h("span", {class: "soft"}, "0.0 s");
  const words = lyrics(song);
  const moved = seconds => {
    now.textContent = `${seconds.toFixed(1)} of ${song.seconds.toFixed(1)} s`;
    head.style.left = `${100 * seconds / song.seconds}%`;
    words.follow(seconds);
  };
  player.on("timeupdate", moved);
  player.on("play", () => { play.textContent = "Pause"; });
  player.on("pause", () => { play.textContent = "Play"; });
  player.on("interaction", seconds => setBranch(seconds));
  const seek = seconds => {
    player.setTime(seconds);
    setBranch(seconds);
  };
  words.seek = seek;
  const picture = h("button", {type: "button", class: "picture", "aria-label": "spectrogram: click to go to a second",
    onclick: event => {
      const edge = picture.getBoundingClientRect();
      if (event.detail) seek(song.seconds * (event.clientX - edge.left) / edge.width);
    }}, h("img", {src: at(name, "spectrogram", {take}), alt: "", loading: "lazy"}), head);
  const parts = [wave, h("div", {class: "row"}, play, now, ...compare(run, name, result)), picture];
  const links = [...Object.entries(FORMS).map(([form, text]) => [at(name, "audio", {take, form}), text]),
    ...(song.words.length ? WORDS : []).map(form => [at(name, "lyrics", {take, form}), form])];
  if (song.lyrics) parts.push(h("p", {class: "soft"}, song.about), words.element);
  parts.push(h("p", {class: "downloads"}, "Download: ", ...links.flatMap(([href, text]) => [h("a", {href, download: true}, text), " "])));
  return parts;
}

const setBranch = seconds => {
  const field = find("#branch-from");
  if (field) field.value = seconds.toFixed(2);
};

/** A button that changes between the recording before and the result, at the same second. */
function compare(run, name, result) {
  if (!run.original || !run.changed.length) return [];
  const original = `/api/runs/${encodeURIComponent(name)}/original`;
  const button = h("button", {type: "button", "aria-pressed": "false", onclick: guarded(async () => {
    const before = button.getAttribute("aria-pressed") !== "true", seconds = player.getCurrentTime(), playing = player.isPlaying();
    button.setAttribute("aria-pressed", String(before));
    await player.load(before ? original : result);
    player.setTime(Math.min(seconds, player.getDuration()));
    if (playing) await player.play();
  })}, "Before the edit");
  return [button, h("span", {class: "soft"}, run.changed.map(([a, b]) => `new from ${a.toFixed(2)} to ${b.toFixed(2)} s`).join(", "))];
}

/** The lyrics; words whose time is known are buttons that light up and seek. */
function lyrics(song) {
  const element = h("div", {class: "lyrics", dir: "auto", tabindex: "0", role: "group", "aria-label": "lyrics"});
  const made = {element, seek: () => {}, follow: () => {}}, spans = [];
  let place = 0;
  for (const [text, start, end] of song.words) {
    const found = song.lyrics.indexOf(text, place);
    if (found < 0) continue;
    const span = h("button", {type: "button", onclick: () => made.seek(start)}, text);
    element.append(song.lyrics.slice(place, found), span);
    spans.push([span, start, end]);
    place = found + text.length;
  }
  element.append(song.lyrics.slice(place));
  made.follow = seconds => {
    for (const [span, start, end] of spans) {
      const sung = seconds >= start && seconds < end;
      if (sung && !span.classList.contains("sung")) element.scrollTop = span.offsetTop - element.offsetTop - element.clientHeight / 2;
      span.classList.toggle("sung", sung);
    }
  };
  return made;
}

/** Branch, edit, align, resume, delete: what this run allows. */
function buttons(run, name, take, model, actions) {
  const submit = body => guarded(async () => actions.submitted(await send("/api/jobs", body())));
  const row = h("div", {class: "row"}), isSong = !run.changed.length;
  const button = (text, onclick) => row.append(h("button", {type: "button", onclick}, text));
  if (run.share < 1) button("Resume", submit(() => ({kind: "resume", run: name})));
  if (run.share === 1 && isSong && model.align && run.samples.some(each => each.lyrics)) button("Find when words are sung", submit(() => ({kind: "align", run: name})));
  button("Delete", guarded(async () => {
    if (!confirm("Delete this run and its audio?")) return;
    close();  // first: a picture or audio that is still requested would no longer be found
    try {
      await ask(`/api/runs/${encodeURIComponent(name)}`, {method: "DELETE"});
    } catch (error) {
      await showSong(name, model, actions, take);
      throw error;
    }
    await actions.gone();
  }));
  const length = run.samples[take - 1].seconds;
  if (run.share < 1 || length == null) return [row];
  const from = h("input", {id: "branch-from", type: "number", min: "0", step: "any", value: (length / 2).toFixed(2)});
  const seconds = h("input", {type: "number", min: "0", step: "any", value: String(isSong ? run.seconds : length)});
  const words = h("textarea", {rows: "3", dir: "auto"});
  const go = h("button", {type: "button", class: "go", onclick: submit(() => ({kind: "branch", run: name, take,
    keep_seconds: Number(from.value), seconds: Number(seconds.value), lyrics: words.value}))}, "Branch from here");
  const edit = h("button", {type: "button", onclick: guarded(() => actions.edit(name, take, Number(from.value)))}, "Edit from here");
  return [row, h("h3", {}, "Branch: keep the beginning, sample the rest again"), h("div", {class: "row"}, h("label", {}, "From second ", from),
    h("label", {}, "Seconds in all ", seconds), go, ...(model.edit ? [edit] : [])),
  h("details", {}, h("summary", {}, "Other lyrics"), h("label", {}, "Lyrics ", words))];
}

function settings(run) {
  const rows = run.settings.map(([name, value]) => h("tr", {}, h("th", {scope: "row"}, name), h("td", {}, value)));
  return h("details", {}, h("summary", {}, "Settings"), h("table", {}, h("tbody", {}, ...rows)));
}
