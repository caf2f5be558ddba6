// Search fields: classes by name or number. `element` and `percent` are the page's.

const MATCHES = 100; // of a search that are listed

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
      const words = `${data.names[rank]} (${data.classes[rank]}), ${percent(data.probabilities[rank])}`;
      const option = element("li", { role: "option", id: `${list.id}-${i}` }, words);
      option.addEventListener("mousedown", (event) => event.preventDefault()); // the field keeps the focus
      option.addEventListener("click", () => choose(i));
      return option;
    });
    const none = element("li", { role: "presentation" }, "no class has this name");
    list.replaceChildren(...(options.length ? options : [none]));
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
