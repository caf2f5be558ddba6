// Sound: what is heard through a map, as `case_jax.audio.masked_sound` has it, and playing it.

let speaker = null; // made when first needed: browsers want a click before
let playing = null;

/** The sound through an upright mask, (frequencies from the highest down, frames): magnitudes P become (1 + P)^M − 1, phases stay. */
function maskedSound({ samples, nFft, window, hop }, mask) {
  const bins = nFft / 2 + 1;
  const frames = mask.length / bins;
  const [cosine, sine] = [Math.cos, Math.sin].map((wave) =>
    Float64Array.from({ length: nFft }, (_, n) => wave((2 * Math.PI * n) / nFft)));
  const hamming = new Float64Array(nFft);
  const before = Math.floor((nFft - window) / 2);
  for (let n = 0; n < window; n++) hamming[before + n] = 0.54 - 0.46 * Math.cos((2 * Math.PI * n) / window);
  const [found, covered] = [new Float64Array(samples.length), new Float64Array(samples.length)];
  for (let t = 0; t < frames; t++) {
    const first = t * hop - nFft / 2;
    const frame = hamming.map((weight, n) => weight * (samples[first + n] ?? 0));
    const kept = new Float64Array(nFft);
    for (let k = 0; k < bins; k++) {
      let [real, imaginary] = [0, 0];
      for (let n = 0; n < nFft; n++) {
        real += frame[n] * cosine[(k * n) % nFft];
        imaginary -= frame[n] * sine[(k * n) % nFft];
      }
      const strength = Math.sqrt(real ** 2 + imaginary ** 2 + 1e-14);
      const gain = Math.expm1(mask[(bins - 1 - k) * frames + t] * Math.log1p(strength)) / strength;
      const share = ((k % (nFft / 2) ? 2 : 1) * gain) / nFft;
      for (let n = 0; n < nFft; n++) {
        kept[n] += share * (real * cosine[(k * n) % nFft] - imaginary * sine[(k * n) % nFft]);
      }
    }
    kept.forEach((value, n) => {
      if (!(first + n in found)) return;
      found[first + n] += hamming[n] * value;
      covered[first + n] += hamming[n] ** 2;
    });
  }
  return Float32Array.from(found, (value, n) => (covered[n] > 0 ? value / covered[n] : 0));
}

/** Plays a sound in place of the one before; all are turned down alike where the whole sound leaves [−1, 1]. */
function play(sound, { rate, samples }) {
  const level = samples.reduce((most, value) => Math.max(most, Math.abs(value)), 1);
  speaker ??= new AudioContext();
  playing?.stop();
  playing = speaker.createBufferSource();
  playing.buffer = speaker.createBuffer(1, sound.length, rate);
  playing.buffer.copyToChannel(sound.map((value) => value / level), 0);
  playing.connect(speaker.destination);
  playing.start();
}
