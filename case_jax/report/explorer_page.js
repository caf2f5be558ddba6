// The page: what is chosen, and drawing it. `state` is all there is to know; `show` draws it.

const data = unpacked(JSON.parse(document.getElementById("data").textContent));
const count = data.classes.length;
const rankOf = new Map(data.classes.map((number, rank) => [number, rank]));
const OPACITY = 0.6;
const LISTED = 10; // of the likeliest classes in the table
const FEW = 12; // others that are shown as a button each
const METHODS = [
  { id: "grad-cam", title: "Grad-CAM", colour: "#0072B2", dash: "" },
  { id: "finer-cam", title: "Finer-CAM", colour: "#D55E00", dash: "7 3" },
  { id: "case", title: "CASE", colour: "#009E73", dash: "2 3" },
]; // in the order of the curves; colours that colour-blind readers tell apart
const SIZES = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 20, 30, 50, 100, 200, 500, 1000, 2000, 5000, 10000]
  .filter((size) => size < count - 1)
  .concat(count - 1); // what the slider stops at: few exactly, many roughly, all

const state = { target: 0, chosen: false, size: Math.min(data.curves.rivals, count - 1), rivals: [] };
let maps = {}; // the finished maps that are shown, by method; null where one is empty or not offered
let grey = null; // the image in grey, one number a pixel

function at(id) {
  return document.getElementById(id);
}

/** An element with attributes and children; texts stay texts. */
function element(tag, attributes = {}, ...children) {
  const drawn = ["svg", "path", "line", "text"].includes(tag);
  const made = drawn ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function percent(share) {
  if (!(share < 0.0005)) return `${(100 * share).toFixed(1)}%`;
  return share < 1e-6 ? "< 0.0001%" : `${(100 * share).toPrecision(2)}%`;
}

function counted(size) {
  return size === 1 ? "1 class" : `${size.toLocaleString("en")} classes`;
}

/** Names as a phrase; long lists end in a count. */
function listed(ranks) {
  const names = ranks.slice(0, ranks.length > 5 ? 4 : 5).map((rank) => data.names[rank]);
  if (ranks.length > 5) names.push(`${(ranks.length - 4).toLocaleString("en")} more`);
  return names.length === 1 ? names[0] : `${names.slice(0, -1).join("; ")} and ${names[names.length - 1]}`;
}

/** The classes that the target is contrasted with; never itself. */
function others() {
  if (state.chosen) return state.rivals;
  const found = [];
  for (let rank = 0; found.length < state.size; rank++) if (rank !== state.target) found.push(rank);
  return found;
}

// ---- pictures

function readGrey() {
  const [height, width] = data.image;
  const canvas = element("canvas", { width, height });
  const context = canvas.getContext("2d");
  context.drawImage(at("photo"), 0, 0, width, height);
  const pixels = context.getImageData(0, 0, width, height).data;
  const mean = (_, i) => (pixels[4 * i] + pixels[4 * i + 1] + pixels[4 * i + 2]) / 3;
  return Float32Array.from({ length: height * width }, mean);
}

/** A map over the grey image; the image alone, with words, where there is none. */
function draw(id, map, words) {
  const canvas = at(id);
  const context = canvas.getContext("2d");
  const picture = context.createImageData(canvas.width, canvas.height);
  const opacity = map ? OPACITY : 0;
  for (let i = 0; i < grey.length; i++) {
    const colour = map ? 3 * Math.round(255 * map[i]) : 0;
    for (let part = 0; part < 3; part++) {
      picture.data[4 * i + part] = (1 - opacity) * grey[i] + opacity * data.colours[colour + part];
    }
    picture.data[4 * i + 3] = 255;
  }
  context.putImageData(picture, 0, 0);
  canvas.nextElementSibling.textContent = words;
}

/** Those that play what a map keeps and leaves; none where the image is no sound's. */
function buttonsOf(id) {
  return document.querySelectorAll(`[data-heard="${id}"]`);
}

function hear({ currentTarget: { dataset } }) {
  const map = maps[dataset.heard];
  const mask = map && (dataset.part === "rest" ? map.map((value) => 1 - value) : map);
  play(mask ? maskedSound(data.sound, mask) : data.sound.samples, data.sound);
}

function drawScale() {
  const context = at("scale").getContext("2d");
  const picture = context.createImageData(256, 1);
  for (let i = 0; i < 256; i++) picture.data.set([...data.colours.slice(3 * i, 3 * i + 3), 255], 4 * i);
  context.putImageData(picture, 0, 0);
}

/** The place of a map's maximum in words, for readers who do not see it. */
function peak(map) {
  const [height, width] = data.image;
  const place = map.indexOf(map.reduce((high, value) => Math.max(high, value), 0));
  const part = (share, names) => names[Math.min(2, Math.floor(3 * share))];
  const down = part(Math.floor(place / width) / height, ["top", "middle", "bottom"]);
  return `highest at the ${down} ${part((place % width) / width, ["left", "centre", "right"])}`;
}

function showMaps() {
  const set = others();
  const raw = { "grad-cam": classMap(data, state.target) };
  const words = { "grad-cam": "", "finer-cam": "", case: "" };
  if (set.length === 0) words["finer-cam"] = words.case = "Choose a class to contrast with.";
  else {
    raw["finer-cam"] = finerMap(data, state.target, set);
    if (hasCase(data, state.target, set)) raw.case = caseMap(data, state.target, set);
    else words.case = `CASE is offered among the ${data.inner.count} likeliest classes: more would not fit the page.`;
  }
  maps = {};
  for (const { id, title } of METHODS) {
    const left = raw[id] && !nothingLeft(data, state.target, raw[id]);
    maps[id] = left ? finished(data, raw[id]) : null;
    if (raw[id] && !left) words[id] = "Degenerate: less than 0.1% of the class map is left, which is rounding.";
    else if (raw[id] && !maps[id]) words[id] = "Degenerate: nowhere positive, nothing speaks for the class.";
    draw(id, maps[id], words[id]);
    for (const button of buttonsOf(id)) button.disabled = !maps[id];
    const said = maps[id] ? peak(maps[id]) : words[id];
    at(id).setAttribute("aria-label", `${title} of ${data.names[state.target]}: ${said}`);
  }
}

// ---- words and numbers

function showWords() {
  const set = others();
  const { target } = state;
  const likeliest = set.length === 1 ? "the likeliest other: " : `the ${set.length.toLocaleString("en")} likeliest others: `;
  const against = set.length === 0 ? "" : `, against ${state.chosen ? "" : likeliest}${listed(set)}`;
  const rank = `rank ${target + 1} of ${data.classCount.toLocaleString("en")}`;
  at("answer").textContent = `${data.names[target]}, ${percent(data.probabilities[target])}, ${rank}${against}.`;
  at("class").value = data.names[target];
  at("size").value = SIZES.findIndex((size) => size >= state.size); // the stop at or above it
  at("size-words").textContent = counted(state.size);
  at("size").setAttribute("aria-valuetext", counted(state.size));
  at("likeliest").checked = !state.chosen;
  at("chosen").checked = state.chosen;
  at("likelier").disabled = target === 0;
  at("less-likely").disabled = target === count - 1;
  at("rivals").replaceChildren(
    ...state.rivals.map((rival) => {
      const name = data.names[rival];
      const button = element("button", { type: "button", "aria-label": `Remove ${name}` }, `${name} ×`);
      button.addEventListener("click", () => removeRival(rival));
      return button;
    }),
  );
}

/** A row of the table; it keeps the focus that its button had. */
function row(rank, set) {
  const name = element("button", { type: "button", class: "name", id: `name-${rank}` }, data.names[rank]);
  name.addEventListener("click", () => change({ target: rank }));
  const rival = set.has(rank);
  const pressed = { type: "button", id: `against-${rank}`, "aria-pressed": rival };
  const against = element("button", pressed, rival ? "yes" : "no");
  against.setAttribute("aria-label", `Against ${data.names[rank]}`);
  against.disabled = rank === state.target;
  against.addEventListener("click", () => toggleRival(rank));
  const logit = data.logits[rank].toFixed(2).replace("-", "−");
  const cells = [rank + 1, name, data.classes[rank], logit, percent(data.probabilities[rank]), against];
  const kind = rank === state.target ? "chosen" : rival ? "rival" : "";
  return element("tr", { class: kind }, ...cells.map((cell) => element("td", {}, cell)));
}

function showTable() {
  const focused = document.activeElement.id;
  const set = new Set(others());
  const likeliest = Array(Math.min(LISTED, count)).keys();
  const ranks = new Set([...likeliest, state.target, ...(state.chosen ? state.rivals : [])]);
  at("classes").replaceChildren(...[...ranks].sort((a, b) => a - b).map((rank) => row(rank, set)));
  if (focused && at(focused)) at(focused).focus();
}

function showCurves() {
  const { values, rivals } = data.curves;
  const lines = values[state.target];
  at("curves").replaceChildren(...(lines ? [curvesPicture(lines, data.names[state.target])] : []));
  if (!lines) {
    at("curves-words").textContent = `Computed for the ${values.length} likeliest classes only.`;
    return;
  }
  const areas = lines.map((line) => (line.includes(null) ? "degenerate" : percent(areaUnder(line))));
  const means = METHODS.map(({ title }, method) => `${title} ${areas[method]}`).join(", ");
  const set = rivals === 1 ? "the likeliest other class" : `the ${rivals} likeliest other classes`;
  const same = !state.chosen && state.size === rivals ? "" : ", not against those chosen above";
  at("curves-words").textContent = `Mean probability along the curve: ${means}. Computed beforehand, against ${set}${same}.`;
}

// ---- state

function show() {
  showWords();
  showMaps();
  showTable();
  showCurves();
  const numbers = state.rivals.map((rank) => data.classes[rank]).join(",");
  const against = state.chosen ? `against=${numbers}` : `k=${state.size}`;
  history.replaceState(null, "", `#class=${data.classes[state.target]}&${against}`);
}

function change(news) {
  Object.assign(state, news);
  state.rivals = state.rivals.filter((rank) => rank !== state.target);
  show();
}

/** Takes a class out of the others that are shown, or adds it; of many likeliest others a click leaves this one alone. */
function toggleRival(rank) {
  const known = state.chosen || others().length <= FEW ? others() : [];
  change({ chosen: true, rivals: known.includes(rank) ? known.filter((other) => other !== rank) : [...known, rank] });
}

function removeRival(rank) {
  change({ rivals: state.rivals.filter((other) => other !== rank) });
  at("rival").focus(); // as the button that was pressed is gone
}

/** Adds a class to those that have been chosen so far. */
function addRival(rank) {
  change({ chosen: true, rivals: [...new Set([...state.rivals, rank])] });
}

/** What the page's address asks for: #class=281&against=282,285 or #class=281&k=5. */
function readAddress() {
  const asked = new URLSearchParams(location.hash.slice(1));
  const ranks = (text) => {
    const found = (text ?? "").split(",").map((number) => rankOf.get(Number.parseInt(number, 10)));
    return found.filter((rank) => rank !== undefined);
  };
  const [target] = ranks(asked.get("class"));
  const size = Number.parseInt(asked.get("k"), 10);
  change({
    target: target ?? state.target,
    chosen: asked.has("against"),
    rivals: asked.has("against") ? [...new Set(ranks(asked.get("against")))] : state.rivals,
    size: size >= 1 ? Math.min(size, count - 1) : state.size,
  });
}

// ---- beginning

function start() {
  grey = readGrey();
  drawScale();
  const few = data.inner.count < count;
  at("case-words").textContent = few
    ? `It needs the inner products of all pairs of classes; this page holds those of the ${data.inner.count.toLocaleString("en")} likeliest.`
    : "";
  if (count < data.classCount) {
    const [held, all] = [count, data.classCount].map((number) => number.toLocaleString("en"));
    at("classes-title").textContent += `: the ${held} likeliest of ${all}, as many as fit the page`;
  }
  for (const button of document.querySelectorAll("[data-heard]")) button.addEventListener("click", hear);
  at("size").max = SIZES.length - 1;
  at("size").addEventListener("input", () => change({ size: SIZES[at("size").value], chosen: false }));
  at("likeliest").addEventListener("change", () => change({ chosen: false }));
  at("chosen").addEventListener("change", () => change({ chosen: true }));
  at("likelier").addEventListener("click", () => change({ target: state.target - 1 }));
  at("less-likely").addEventListener("click", () => change({ target: state.target + 1 }));
  at("controls").addEventListener("submit", (event) => event.preventDefault());
  searchField(at("class"), at("class-list"), (rank) => change({ target: rank }), () => data.names[state.target]);
  searchField(at("rival"), at("rival-list"), addRival, () => "");
  addEventListener("hashchange", readAddress);
  readAddress();
}

at("photo").decode().then(start);
