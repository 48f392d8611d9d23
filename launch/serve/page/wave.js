// Waveforms: one to play, and one on which a region is selected, each with number fields that say and set the same.
import WaveSurfer from "./vendor/wavesurfer.js";
import Regions from "./vendor/regions.js";

const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const players = new Set();

/** A waveform of a file in a container; others stop when it plays. */
export function waveform(container, url, plugins = []) {
  container.replaceChildren();
  const player = WaveSurfer.create({
    container, url, height: 96, waveColor: colour("--wave"), progressColor: colour("--mark"), cursorColor: colour("--ink"),
    cursorWidth: 2, normalize: true, plugins, cspNonce: undefined,
  });
  player.on("play", () => players.forEach(other => other !== player && other.pause()));
  player.on("destroy", () => players.delete(player));
  players.add(player);
  return player;
}

/** A waveform with one region that can be dragged; `changed(start, end)` is called, `select(start, end)` sets it. */
export function selectable(container, url, changed) {
  const regions = Regions.create();
  const player = waveform(container, url, [regions]);
  let region = null, quiet = false;
  const show = () => quiet || changed(region.start, region.end);
  regions.enableDragSelection({color: colour("--region")});
  regions.on("region-created", made => {
    const old = region;
    region = made;
    if (old && old !== made) old.remove();
    show();
  });
  regions.on("region-updated", made => {
    region = made;
    show();
  });
  player.on("error", () => {});  // a format that the browser cannot play: the number fields remain
  const select = (start, end) => {
    if (!player.getDuration() || end <= start) return;
    quiet = true;
    if (region) region.setOptions({start, end});
    else regions.addRegion({start, end, color: colour("--region")});
    quiet = false;
  };
  return {player, select};
}

/** Space plays or pauses the player that was used last, as on the page of a run. */
export function spacePlays() {
  document.addEventListener("keydown", event => {
    if (event.key !== " " || event.target.closest("input, textarea, select, button, summary, a")) return;
    const player = [...players].filter(each => each.getWrapper().isConnected).pop();
    if (!player) return;
    event.preventDefault();
    player.playPause();
  });
}
