// The page: what is chosen, and drawing it. `state` is all there is to know; `show` draws it.

const data = unpacked(JSON.parse(document.getElementById("data").textContent));
const count = data.classes.length;
const rankOf = new Map(data.classes.map((number, rank) => [number, rank]));
const OPACITY = 0.6;
const LISTED = 10; // of the likeliest classes in the table
const MATCHES = 100; // of a search that are listed
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
  return names.length === 1 ? names[0] : `${names.slice(0, -1).join("; ")} and ${names.at(-1)}`;
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
  return Float32Array.from({ length: height * width }, (_, i) => (pixels[4 * i] + pixels[4 * i + 1] + pixels[4 * i + 2]) / 3);
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
  at("answer").textContent = `${data.names[target]}, ${percent(data.probabilities[target])}, rank ${target + 1} of ${data.classCount.toLocaleString("en")}${against}.`;
  at("class").value = data.names[target];
  at("size").value = SIZES.findIndex((size) => size >= state.size); // the stop at or above it
  at("size-words").textContent = counted(state.size);
  at("size").setAttribute("aria-valuetext", counted(state.size));
  at("likeliest").checked = !state.chosen;
  at("chosen").checked = state.chosen;
  at("likelier").disabled = target === 0;
  at("less-likely").disabled = target === count - 1;
  at("rivals").replaceChildren(
    ...state.rivals.map((rank) => {
      const button = element("button", { type: "button", "aria-label": `Remove ${data.names[rank]}` }, `${data.names[rank]} ×`);
      button.addEventListener("click", () => toggleRival(rank));
      return button;
    }),
  );
}

/** A row of the table; it keeps the focus that its button had. */
function row(rank, set) {
  const name = element("button", { type: "button", class: "name", id: `name-${rank}` }, data.names[rank]);
  name.addEventListener("click", () => change({ target: rank }));
  const rival = set.has(rank);
  const against = element("button", { type: "button", id: `against-${rank}`, "aria-pressed": rival }, rival ? "yes" : "no");
  against.setAttribute("aria-label", `Against ${data.names[rank]}`);
  against.disabled = rank === state.target;
  against.addEventListener("click", () => toggleRival(rank));
  const cells = [rank + 1, name, data.classes[rank], data.logits[rank].toFixed(2), percent(data.probabilities[rank]), against];
  const kind = rank === state.target ? "chosen" : rival ? "rival" : "";
  return element("tr", { class: kind }, ...cells.map((cell) => element("td", {}, cell)));
}

function showTable() {
  const focused = document.activeElement.id;
  const set = new Set(others());
  const ranks = new Set([...Array(Math.min(LISTED, count)).keys(), state.target, ...(state.chosen ? state.rivals : [])]);
  at("classes").replaceChildren(...[...ranks].sort((a, b) => a - b).map((rank) => row(rank, set)));
  if (focused && at(focused)) at(focused).focus();
}

function showCurves() {
  const lines = data.curves.values[state.target];
  const rivals = data.curves.rivals;
  if (!lines) {
    at("curves").replaceChildren();
    at("curves-words").textContent = `Computed for the ${data.curves.values.length} likeliest classes only.`;
    return;
  }
  const [width, height, left, top, right, bottom] = [420, 250, 46, 12, 24, 40];
  const most = Math.max(...lines.flat().map((p) => p ?? 0), 1e-9);
  const x = (share) => left + share * (width - left - right);
  const y = (p) => height - bottom - (p / most) * (height - top - bottom);
  const picture = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "font-size": 12, "font-family": "sans-serif" });
  picture.append(
    element("line", { x1: x(0), y1: y(0), x2: x(1), y2: y(0), stroke: "#444" }),
    element("line", { x1: x(0), y1: y(0), x2: x(0), y2: y(most), stroke: "#444" }),
    ...[0, 0.5, 1].map((share) => element("text", { x: x(share), y: y(0) + 16, "text-anchor": "middle" }, `${100 * share}%`)),
    ...[0, most].map((p) => element("text", { x: left - 5, y: y(p) + 4, "text-anchor": "end" }, percent(p).replace("< 0.0001%", "0%"))),
    element("text", { x: x(0.5), y: height - 6, "text-anchor": "middle" }, "pixels removed, the map's highest first"),
  );
  const areas = [];
  METHODS.forEach(({ title, colour, dash }, method) => {
    const line = lines[method];
    if (line.includes(null)) return areas.push(`${title} degenerate`);
    const points = line.map((p, step) => `${x(step / (line.length - 1)).toFixed(1)} ${y(p).toFixed(1)}`);
    const area = line.reduce((sum, p) => sum + p, 0) - (line[0] + line.at(-1)) / 2;
    picture.append(
      element("path", { d: `M${points.join("L")}`, fill: "none", stroke: colour, "stroke-width": 2.2, "stroke-dasharray": dash }),
      element("line", { x1: width - 130, x2: width - 98, y1: 20 + 18 * method, y2: 20 + 18 * method, stroke: colour, "stroke-width": 2.2, "stroke-dasharray": dash }),
      element("text", { x: width - 92, y: 24 + 18 * method }, title),
    );
    return areas.push(`${title} ${percent(area / (line.length - 1))}`);
  });
  picture.setAttribute("aria-label", `Deletion curves of ${data.names[state.target]}`);
  at("curves").replaceChildren(picture);
  const set = rivals === 1 ? "the likeliest other class" : `the ${rivals} likeliest other classes`;
  const same = !state.chosen && state.size === rivals;
  at("curves-words").textContent =
    `Mean probability along the curve: ${areas.join(", ")}. Computed beforehand, against ${set}${same ? "" : ", not against those chosen above"}.`;
}

// ---- state

function show() {
  showWords();
  showMaps();
  showTable();
  showCurves();
  const numbers = state.rivals.map((rank) => data.classes[rank]).join(",");
  history.replaceState(null, "", `#class=${data.classes[state.target]}&${state.chosen ? `against=${numbers}` : `k=${state.size}`}`);
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

/** Adds a class to those that have been chosen so far. */
function addRival(rank) {
  change({ chosen: true, rivals: [...new Set([...state.rivals, rank])] });
}

/** What the page's address asks for: #class=281&against=282,285 or #class=281&k=5. */
function readAddress() {
  const asked = new URLSearchParams(location.hash.slice(1));
  const ranks = (text) => (text ?? "").split(",").map((number) => rankOf.get(Number.parseInt(number, 10))).filter((rank) => rank !== undefined);
  const [target] = ranks(asked.get("class"));
  const size = Number.parseInt(asked.get("k"), 10);
  change({
    target: target ?? state.target,
    chosen: asked.has("against"),
    rivals: asked.has("against") ? [...new Set(ranks(asked.get("against")))] : state.rivals,
    size: size >= 1 ? Math.min(size, count - 1) : state.size,
  });
}

// ---- search fields

/** Ranks of classes whose names hold all words, or whose number it is; names that begin with them first. */
function matches(text) {
  const wanted = text.trim().toLowerCase();
  const words = wanted.split(/\s+/);
  const found = [...data.names.keys()].filter((rank) => {
    const name = data.names[rank].toLowerCase();
    return String(data.classes[rank]) === wanted || words.every((word) => name.includes(word));
  });
  const begins = (rank) => String(data.classes[rank]) === wanted || data.names[rank].toLowerCase().startsWith(wanted);
  return [...found.filter(begins), ...found.filter((rank) => !begins(rank))].slice(0, MATCHES);
}

/** A text field with a list of matching classes below; `take` is called with the rank of the one that is taken. */
function searchField(field, list, take, resting) {
  let found = [];
  let active = 0;

  function mark(place) {
    active = place;
    [...list.children].forEach((option, i) => option.setAttribute("aria-selected", i === active));
    if (list.children[active]) {
      field.setAttribute("aria-activedescendant", list.children[active].id);
      list.children[active].scrollIntoView({ block: "nearest" });
    }
  }
  function open(text) {
    found = matches(text);
    const options = found.map((rank, i) => {
      const option = element("li", { role: "option", id: `${list.id}-${i}` }, `${data.names[rank]} (${data.classes[rank]}), ${percent(data.probabilities[rank])}`);
      option.addEventListener("mousedown", (event) => event.preventDefault()); // the field keeps the focus
      option.addEventListener("click", () => choose(i));
      return option;
    });
    list.replaceChildren(...(options.length ? options : [element("li", { role: "presentation" }, "no class has this name")]));
    list.hidden = false;
    field.setAttribute("aria-expanded", "true");
    mark(0);
  }
  function close() {
    list.hidden = true;
    field.setAttribute("aria-expanded", "false");
    field.removeAttribute("aria-activedescendant");
    field.value = resting();
  }
  function choose(place) {
    const rank = found[place];
    close();
    if (rank !== undefined) take(rank);
    field.value = resting();
    field.select();
  }
  field.addEventListener("focus", () => field.select());
  field.addEventListener("input", () => open(field.value));
  field.addEventListener("click", () => list.hidden && open(""));
  field.addEventListener("blur", close);
  field.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && list.hidden) open("");
    else if (step && found.length) mark((active + step + found.length) % found.length);
    else if (event.key === "Enter" && !list.hidden) choose(active);
    else if (event.key === "Escape") close();
    else if (event.key !== "Enter") return;
    event.preventDefault();
  });
}

function start() {
  grey = readGrey();
  drawScale();
  const few = data.inner.count < count;
  at("case-words").textContent = few
    ? `It needs the inner products of all pairs of classes; this page holds those of the ${data.inner.count.toLocaleString("en")} likeliest.`
    : "";
  if (count < data.classCount) {
    at("classes-title").textContent += `: the ${count.toLocaleString("en")} likeliest of ${data.classCount.toLocaleString("en")}, as many as fit the page`;
  }
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
