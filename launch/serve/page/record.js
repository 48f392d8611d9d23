// The microphone as a wav file of 16 bits: what the browser records is decoded and written again, so that the server can read it.
import {guarded, say} from "./api.js";

let recorder = null;

/** Start a recording, or end the one in progress, which `done` gets as a Blob. */
export async function record(button, done) {
  if (recorder) {
    recorder.stop();
    return;
  }
  if (!navigator.mediaDevices) throw new Error("this browser records only on pages of this machine or over https");
  const stream = await navigator.mediaDevices.getUserMedia({audio: true}).catch(() => null);
  if (!stream) throw new Error("there is no microphone, or it is not allowed");
  const parts = [];
  recorder = new MediaRecorder(stream);
  recorder.addEventListener("dataavailable", event => parts.push(event.data));
  recorder.addEventListener("stop", guarded(async () => {
    recorder = null;
    button.textContent = "Record";
    stream.getTracks().forEach(track => track.stop());
    const audio = await new OfflineAudioContext(1, 1, 44100).decodeAudioData(await new Blob(parts).arrayBuffer());
    await done(wav(audio));
  }));
  recorder.start();
  button.textContent = "Stop recording";
  say("recording; press Stop recording when you are done");
}

/** The first channel of an AudioBuffer as a wav file. */
function wav(audio) {
  const samples = audio.getChannelData(0), view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const text = (place, word) => [...word].forEach((letter, i) => view.setUint8(place + i, letter.charCodeAt(0)));
  text(0, "RIFF"), view.setUint32(4, 36 + 2 * samples.length, true), text(8, "WAVEfmt ");
  view.setUint32(16, 16, true), view.setUint16(20, 1, true), view.setUint16(22, 1, true);
  view.setUint32(24, audio.sampleRate, true), view.setUint32(28, 2 * audio.sampleRate, true);
  view.setUint16(32, 2, true), view.setUint16(34, 16, true), text(36, "data"), view.setUint32(40, 2 * samples.length, true);
  samples.forEach((x, i) => view.setInt16(44 + 2 * i, Math.max(-32768, Math.min(32767, Math.round(32768 * x))), true));
  return new Blob([view.buffer], {type: "audio/wav"});
}
