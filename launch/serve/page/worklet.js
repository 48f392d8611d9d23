// Plays blocks of samples as they come. It begins when enough is there, counts underruns, and begins again after one.
class LivePlayer extends AudioWorkletProcessor {
  constructor({processorOptions}) {
    super();
    Object.assign(this, {start: processorOptions.start, blocks: [], at: 0, held: 0, played: 0, underruns: 0, peak: 0, reported: 0,
      playing: false, ended: false});
    this.port.onmessage = ({data}) => {
      if (data === "end") this.ended = true;
      else {
        this.blocks.push(data);
        this.held += data[0].length;
      }
    };
  }

  /** Copy up to so many samples to the output; how many there were. */
  fill(output, count) {
    let done = 0;
    while (done < count && this.blocks.length) {
      const [block] = this.blocks, size = Math.min(count - done, block[0].length - this.at);
      output.forEach((channel, c) => channel.set(block[Math.min(c, block.length - 1)].subarray(this.at, this.at + size), done));
      for (let i = 0; i < size; i += 4) this.peak = Math.max(this.peak, Math.abs(block[0][this.at + i]));
      done += size;
      this.at += size;
      if (this.at === block[0].length) {
        this.blocks.shift();
        this.at = 0;
      }
    }
    this.held -= done;
    this.played += done;
    return done;
  }

  process(_, [output]) {
    const count = output[0].length;
    this.playing ||= this.held >= this.start || (this.ended && this.held > 0);
    if (this.playing && this.fill(output, count) < count) {
      this.playing = false;
      if (!this.ended) this.underruns += 1;
    }
    if (currentTime - this.reported >= 0.25) {
      this.port.postMessage({played: this.played / sampleRate, held: this.held / sampleRate, underruns: this.underruns, peak: this.peak,
        silent: this.ended && !this.held});
      Object.assign(this, {reported: currentTime, peak: 0});
    }
    return true;
  }
}

registerProcessor("live-player", LivePlayer);
