"use strict";
// Class maps and contrasts: numbers in, numbers out. A class is named by its rank: 0 is the likeliest.

const LARGEST = 32767; // of a 16-bit number
const LITTLE_LEFT = 1e-3; // of the class's own map: less than this is within reach of the 16-bit numbers' rounding

function bytes(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0)).buffer;
}

/** The data of the page, its packed arrays as arrays. */
function unpacked(data) {
  const floats = (text) => new Float32Array(bytes(text));
  const shorts = (text) => new Int16Array(bytes(text));
  const { maps, inner } = data;
  return {
    ...data,
    logits: floats(data.logits),
    probabilities: floats(data.probabilities),
    maps: { mean: floats(maps.mean), scales: floats(maps.scales), numbers: shorts(maps.numbers) },
    inner: {
      ...inner,
      withMean: floats(inner.withMean),
      lengths: floats(inner.lengths),
      cosines: shorts(inner.cosines),
    },
    colours: new Uint8Array(bytes(data.colours)),
    sound: data.sound && { ...data.sound, samples: floats(data.sound.samples) },
  };
}

/** S_c: the class map at the layer's resolution, before any rectification. */
function classMap(data, c) {
  const { mean, scales, numbers } = data.maps;
  const unit = scales[c] / LARGEST;
  return Float64Array.from(mean, (value, place) => value + unit * numbers[c * mean.length + place]);
}

/** S_c minus the sum of weights[j] S_j over the members of a set. */
function without(data, c, set, weights) {
  const found = classMap(data, c);
  set.forEach((j, member) => {
    const other = classMap(data, j);
    for (let place = 0; place < found.length; place++) found[place] -= weights[member] * other[place];
  });
  return found;
}

/** Shares p_j / (sum over the set) of the set's probabilities, which themselves may be too small for a number. */
function shares(data, set) {
  const logarithm = data.link === "sigmoid" ? (y) => Math.min(y, 0) - Math.log1p(Math.exp(-Math.abs(y))) : (y) => y;
  const logs = set.map((j) => logarithm(data.logits[j]));
  const highest = Math.max(...logs);
  const parts = logs.map((value) => Math.exp(value - highest));
  const total = parts.reduce((sum, part) => sum + part, 0);
  return parts.map((part) => part / total);
}

/** Finer-CAM before rectification: sum over j of p_j (S_c - S_j) / sum of p_j. */
function finerMap(data, c, set) {
  return without(data, c, set, shares(data, set));
}

/** Inner product of the weights of two classes. */
function innerProduct(data, i, j) {
  const { squared, withMean, lengths, cosines } = data.inner;
  const [low, high] = i < j ? [i, j] : [j, i];
  const cosine = cosines[(high * (high + 1)) / 2 + low] / LARGEST;
  return squared + withMean[i] + withMean[j] + lengths[i] * lengths[j] * cosine;
}

/** Whether the page holds the inner products that CASE of this class against this set needs. */
function hasCase(data, c, set) {
  return [c, ...set].every((rank) => rank < data.inner.count);
}

/** CASE before rectification: S_c - beta mean(S_j), beta = <a_c, mean a_j> / (|mean a_j|^2 + eps). */
function caseMap(data, c, set) {
  let product = 0;
  let squared = 0;
  for (const i of set) {
    product += innerProduct(data, c, i);
    for (const j of set) squared += innerProduct(data, i, j);
  }
  const size = set.length;
  const beta = product / size / (squared / size ** 2 + data.inner.eps);
  return without(data, c, set, set.map(() => beta / size));
}

function largest(map) {
  return map.reduce((highest, value) => Math.max(highest, Math.abs(value)), 0);
}

/** Whether a contrast has taken away all but rounding. */
function nothingLeft(data, c, map) {
  return largest(map) < LITTLE_LEFT * largest(classMap(data, c));
}

/** Where each of `target` pixels lies between `source` values: half-pixel centres, edges repeated. */
function places(source, target) {
  return Array.from({ length: target }, (_, pixel) => {
    const position = Math.min(Math.max(((pixel + 0.5) * source) / target - 0.5, 0), source - 1);
    const low = Math.floor(position);
    return { low, high: Math.min(low + 1, source - 1), fraction: position - low };
  });
}

/** Bilinear interpolation of a map (h, w) to an image (H, W). */
function enlarged(map, [h, w], [H, W]) {
  const columns = places(w, W);
  const wide = new Float64Array(h * W);
  for (let row = 0; row < h; row++) {
    columns.forEach(({ low, high, fraction }, x) => {
      wide[row * W + x] = (1 - fraction) * map[row * w + low] + fraction * map[row * w + high];
    });
  }
  const found = new Float32Array(H * W);
  places(h, H).forEach(({ low, high, fraction }, y) => {
    for (let x = 0; x < W; x++) {
      found[y * W + x] = (1 - fraction) * wide[low * W + x] + fraction * wide[high * W + x];
    }
  });
  return found;
}

/** A map in [0, 1] at the image's size: positive part, minimum to 0, maximum to 1; null where it is degenerate. */
function finished(data, map) {
  const positive = map.map((value) => Math.max(value, 0));
  const low = positive.reduce((least, value) => Math.min(least, value), Infinity);
  const range = positive.reduce((most, value) => Math.max(most, value), 0) - low;
  if (!(range > 0)) return null;
  const scaled = positive.map((value) => (value - low) / (1e-7 + range));
  return enlarged(scaled, data.space, data.image);
}
