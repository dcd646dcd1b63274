// Draws what the server of this page answers. What is typed or found is only ever set as text, never as markup.

import { ask, enter, post, Refusal, whileWaiting } from "/ask.js";

const MOST_PICTURE_BYTES = 10e6;
const PAUSE = 250; // milliseconds after the last key before anything is asked

const at = (id) => document.getElementById(id);
const state = {
  about: null,
  picture: null, // {name, blob, height, width}
  example: null,
  labels: [],
  best: null, // of them, by the last answer
  view: "none", // or "label" or "attention"
  look: null, // the label whose map is shown
  maps: new Map(), // label -> {overlay, limit}, of this picture
  attention: null,
};

/** About the picture; sent again where the server has forgotten it. */
async function askOfPicture(path, asked, signal) {
  if (!state.picture) throw new Refusal(0, "Choose a picture first.");
  try {
    return await post(path, { ...asked, picture: state.picture.name }, signal);
  } catch (error) {
    if (error.status !== 404) throw error;
    await ask("/api/picture", { method: "POST", body: state.picture.blob, signal });
    return post(path, { ...asked, picture: state.picture.name }, signal);
  }
}

/** A function that runs `work`, after a pause if one is given, and stops what it ran before; troubles are shown. */
function latest(work) {
  let running = null;
  return async (pause = 0, ...given) => {
    running?.abort();
    const mine = (running = new AbortController());
    try {
      if (pause) await new Promise((resolve) => setTimeout(resolve, pause));
      if (!mine.signal.aborted) await work(mine.signal, ...given);
    } catch (error) {
      if (error.name !== "AbortError" && !mine.signal.aborted) trouble(error.message);
    }
  };
}

function trouble(message) {
  at("trouble-text").textContent = message;
  at("trouble").hidden = !message;
}

// ---- small pieces

function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

const caption = (text) => make("bdi", { dir: "auto" }, text);

function percent(share) {
  if (share === null) return "–";
  if (share > 0 && share < 0.0005) return "<0.1%";
  if (share < 1 && share > 0.9995) return ">99.9%";
  return `${(100 * share).toFixed(1)}%`;
}

function track(kind) {
  return make("span", { class: `track ${kind}`, "aria-hidden": "true" }, make("i"));
}

function fill(bar, share) {
  bar.firstChild.style.width = `${100 * Math.min(Math.max(share, 0), 1)}%`;
}

// ---- the picture

const takePicture = latest(async (signal, blob, example) => {
  trouble("");
  if (blob.size > MOST_PICTURE_BYTES)
    throw new Refusal(413, `The file has ${(blob.size / 1e6).toFixed(1)} MB; at most ${MOST_PICTURE_BYTES / 1e6} MB can be sent.`);
  at("view").setAttribute("aria-busy", "true");
  try {
    const kept = await ask("/api/picture", { method: "POST", body: blob, signal });
    state.picture = { name: kept.picture, blob, height: kept.height, width: kept.width };
    state.example = example ?? null;
    state.maps = new Map();
    state.attention = null;
    const shown = at("picture");
    if (shown.src) URL.revokeObjectURL(shown.src);
    shown.src = URL.createObjectURL(blob);
    shown.hidden = false;
    at("frame").style.setProperty("--aspect", kept.width / kept.height);
    markExample();
    showHeat();
    weigh();
  } finally {
    if (!signal.aborted) at("view").setAttribute("aria-busy", "false");
  }
});

const takeFrom = latest(async (signal, path, example) => {
  const blob = await ask(path, { signal });
  await takePicture(0, blob, example);
});

function markExample() {
  at("examples")
    .querySelectorAll("button")
    .forEach((button, place) => button.setAttribute("aria-pressed", String(place === state.example)));
}

function listenForPictures() {
  const take = (files) => files?.length && takePicture(0, files[0]);
  at("file").addEventListener("change", (event) => {
    take(event.target.files);
    event.target.value = ""; // so that the same file can be chosen again
  });
  document.addEventListener("paste", (event) => take(event.clipboardData?.files));
  // Wherever it falls: outside the frame a browser would leave the page and show the file.
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    at("drop").classList.add("over");
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget || at("drop").classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    at("drop").classList.remove("over");
    take(event.dataTransfer?.files);
  });
}

// ---- labels and their probabilities

function setLabels(labels) {
  at("chips").replaceChildren(...labels.slice(0, state.about.limits.labels).map(makeChip), makeNewChip());
  readLabels();
}

const chips = () => [...at("chips").querySelectorAll(".chip:not(.new)")];
const newChip = () => at("chips").querySelector(".new input");

/** Labels are what stands in the chips; one that is empty or stands there twice goes. The others stay as they are, and so does the focus. */
function readLabels() {
  const labels = new Set();
  for (const chip of chips()) {
    const label = chip.querySelector("input").value.trim();
    if (!label || labels.has(label)) chip.remove();
    else chip.querySelector("button").setAttribute("aria-label", `Remove ${label}`);
    if (label) labels.add(label);
  }
  state.labels = [...labels];
  newChip().disabled = labels.size >= state.about.limits.labels;
  weigh();
}

function makeChip(label) {
  const input = chipInput(label);
  input.setAttribute("aria-label", "Label");
  input.addEventListener("change", readLabels);
  const remove = make("button", { type: "button" }, "×");
  const chip = make("li", { class: "chip" }, input, remove);
  remove.addEventListener("click", () => {
    const place = chips().indexOf(chip);
    chip.remove();
    readLabels();
    (chips()[place]?.querySelector("button") ?? newChip()).focus();
  });
  return chip;
}

function makeNewChip() {
  const input = chipInput("");
  input.placeholder = "add a label";
  input.setAttribute("aria-label", "Add a label");
  input.addEventListener("change", () => {
    at("chips").lastChild.before(makeChip(input.value));
    input.value = "";
    readLabels();
  });
  return make("li", { class: "chip new" }, input);
}

function chipInput(label) {
  const input = make("input", { dir: "auto", spellcheck: "false", autocomplete: "off", maxlength: state.about.limits.characters });
  input.value = label;
  // For browsers without `field-sizing`; characters of the East are twice as wide.
  const fit = () => (input.size = Math.max(3, [...input.value].reduce((sum, letter) => sum + (letter < "\u1100" ? 1 : 2), 0)));
  input.addEventListener("input", fit);
  fit();
  return input;
}

const bars = new Map(); // label -> its row

const askProbabilities = latest(async (signal) => {
  if (!state.picture || !state.labels.length) return drawBars([]);
  at("bars").classList.add("waiting");
  const { labels } = await askOfPicture("/api/probabilities", { labels: state.labels }, signal);
  drawBars(labels);
  if (state.view !== "none") askHeat();
});

function weigh() {
  if (state.about.asks) return;
  askProbabilities(30);
}

function drawBars(weighed) {
  const kept = new Set(weighed.map((each) => each.label));
  for (const [label] of bars) if (!kept.has(label)) bars.delete(label);
  const rows = weighed.map((each) => {
    if (!bars.has(each.label)) bars.set(each.label, makeBar(each.label));
    return bars.get(each.label);
  });
  const active = document.activeElement;
  at("bars").replaceChildren(...rows.map((row) => row.element));
  if (active?.classList.contains("look")) active.focus(); // moving a row takes the focus from it
  requestAnimationFrame(() => rows.forEach((row, place) => row.show(weighed[place])));
  at("bars").classList.remove("waiting");
  state.best = weighed[0]?.label ?? null;
  at("best").textContent = weighed.length ? `Best: ${state.best}, ${percent(weighed[0].softmax)}` : "";
  markLook();
}

function makeBar(label) {
  const [share, alone] = [make("data", { class: "image" }), make("data", { class: "text" })];
  const [shareTrack, aloneTrack] = [track("image"), track("text")];
  const { sigmoid } = state.about;
  const look = make("button", { type: "button", class: "look", "aria-pressed": "false", title: "What counts for this label" });
  look.setAttribute("aria-label", `Show what counts for ${label}`);
  look.append(at("eye").content.cloneNode(true));
  look.addEventListener("click", () => setView(state.view === "label" && state.look === label ? "none" : "label", label));
  const tracks = make("span", { class: "tracks" }, shareTrack, ...(sigmoid ? [aloneTrack] : []));
  const element = make("li", { class: "bar" }, make("span", { class: "name" }, caption(label)), share, alone, look, tracks);
  return {
    element,
    look,
    show(each) {
      share.textContent = percent(each.softmax);
      share.value = each.softmax;
      alone.textContent = sigmoid ? percent(each.sigmoid) : "";
      fill(shareTrack, each.softmax);
      if (!sigmoid) return;
      alone.value = each.sigmoid;
      fill(aloneTrack, each.sigmoid);
    },
  };
}

// ---- where it looks

function setView(view, look = null) {
  state.view = view;
  state.look = view === "label" ? (look ?? state.look) : state.look;
  showHeat();
  if (view !== "none") askHeat();
}

const askHeat = latest(async (signal) => {
  if (!state.picture || !state.labels.length) return;
  if (!state.labels.includes(state.look)) state.look = state.labels.includes(state.best) ? state.best : state.labels[0];
  const missing = state.labels.some((label) => !state.maps.has(label)) || (state.about.attention && !state.attention);
  if (missing) {
    at("view").setAttribute("aria-busy", "true");
    at("legend").textContent = "Looking …";
    try {
      const { maps, attention } = await askOfPicture("/api/heat_maps", { labels: state.labels }, signal);
      state.maps = new Map(maps.map((map) => [map.label, map]));
      state.attention = attention;
    } finally {
      if (!signal.aborted) at("view").setAttribute("aria-busy", "false");
    }
  }
  showHeat();
});

function showHeat() {
  document.querySelectorAll(".switch button").forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.view === state.view)));
  const map = state.view === "attention" ? state.attention : state.view === "label" ? state.maps.get(state.look) : null;
  const heat = at("heat");
  heat.hidden = !map;
  if (map) heat.src = map.overlay;
  else heat.removeAttribute("src");
  drawLegend(map);
  markLook();
}

function drawLegend(map) {
  const legend = at("legend");
  if (!map) {
    legend.textContent = state.view === "none" ? "The eye beside a label shows which parts of the picture count for it." : "";
    return;
  }
  if (state.view === "attention") {
    legend.replaceChildren(
      "What the pooling reads, whatever is asked: each patch's share of its attention, where it is more than an even one.",
      make("span", { class: "scale one" }, percent(map.even), make("i"), percent(map.limit))
    );
    return;
  }
  legend.replaceChildren(
    "Red speaks for ",
    caption(`“${state.look}”`),
    ", blue against it: by how much its logit falls when that part is hidden.",
    make("span", { class: "scale" }, `−${map.limit.toPrecision(2)}`, make("i"), `+${map.limit.toPrecision(2)}`)
  );
}

function markLook() {
  for (const [label, row] of bars) row.look.setAttribute("aria-pressed", String(state.view === "label" && label === state.look));
}

// ---- searching

const search = latest(async (signal, asked) => {
  at("hits").classList.add("waiting");
  try {
    const found = asked.text ? await post("/api/search", asked, signal) : await askOfPicture("/api/search", {}, signal);
    const what = asked.text ? caption(`“${asked.text}”`) : "the picture";
    const how = asked.text && state.about.sigmoid ? "; the bar is the sigmoid" : "";
    const read = asked.text && found.read_as !== asked.text ? [", read as ", caption(`“${found.read_as}”`)] : [];
    at("found").replaceChildren("Nearest to ", what, ...read, `, in ${Math.max(1, Math.round(1000 * found.seconds))} ms${how}`);
    at("hits").replaceChildren(...found.results.map((hit) => drawHit(hit)));
  } finally {
    if (!signal.aborted) at("hits").classList.remove("waiting");
  }
});

function drawHit(hit) {
  const thumb = make("img", { class: "thumb", src: `/api/thumbnail/${hit.row}`, alt: "", loading: "lazy" });
  const pair = hit.probability !== null;
  const button = make(
    "button",
    { type: "button", title: "Take this as the picture", onclick: () => takeFrom(0, `/api/gallery/${hit.row}`) },
    thumb,
    make("span", { class: "caption" }, caption(hit.caption || "without a caption")),
    make("data", { value: pair ? hit.probability : hit.cosine }, pair ? percent(hit.probability) : `cosine ${hit.cosine.toFixed(2)}`)
  );
  if (pair) {
    const bar = track("text");
    fill(bar, hit.probability);
    button.append(bar);
  }
  return make("li", {}, button);
}

// ---- asking by prompts

const askPrompt = latest(async (signal, prompt) => {
  trouble("");
  at("answer").classList.add("waiting");
  try {
    const told = await askOfPicture("/api/ask", { prompt }, signal);
    at("answer").textContent = told.found.length && !told.unreadable.length ? "" : told.answer || "(an empty answer)";
    at("things").replaceChildren(
      ...told.found.map(({ label, box: [top, left, bottom, right], mask }) =>
        make("li", {}, caption(label || "unnamed"), `rows ${top} to ${bottom}, columns ${left} to ${right}${mask ? ", with a mask" : ""}`)
      )
    );
    at("drawn").hidden = !told.drawn;
    if (told.drawn) at("drawn").src = told.drawn;
    at("asked").replaceChildren(caption(`“${prompt}”`), `, answered in ${told.seconds.toFixed(2)} s`);
  } finally {
    if (!signal.aborted) at("answer").classList.remove("waiting");
  }
});

function promptFor(prompt) {
  const asked = prompt.trim().slice(0, state.about.limits.characters);
  at("prompt").value = prompt;
  if (asked) askPrompt(0, asked);
}

function searchFor(text, pause = 0) {
  const asked = text.trim().slice(0, state.about.limits.characters);
  if (asked) search(pause, { text: asked });
}

// ---- the beginning

function namesIn(language) {
  return state.about.examples.map((example) => example.names[language]);
}

function drawAbout(about, chosen) {
  const { name, kind, source, parameters } = about.model;
  const does = about.asks ? "Drop a picture and ask about it." : "Drop a picture, say what it might be in any language, and look.";
  at("summary").replaceChildren(`${does} The model is `, make("b", {}, name), ".");
  const size = parameters ? `, ${(parameters / 1e6).toLocaleString("en", { maximumSignificantDigits: 3 })} million parameters` : "";
  at("model").replaceChildren("The model: ", make("b", {}, name), ` (${kind}${size})${source ? `, from ${source}` : ""}.`);
  at("asking").hidden = !about.asks;
  at("labels").hidden = at("search").hidden = at("looks").hidden = about.asks;
  at("gallery").textContent = `${about.gallery.rows.toLocaleString("en")} images: ${about.gallery.name}`;
  at("sigmoid-key").hidden = !about.sigmoid;
  at("attention").hidden = !about.attention;
  at("language").replaceChildren(...about.languages.map(({ code, name }) => make("option", { value: code }, name)));
  at("language").value = chosen;
  at("examples").replaceChildren(
    ...about.examples.map((example, place) => {
      const path = `/api/example/${place}`;
      const take = () => takeFrom(0, path, place);
      const image = make("img", { src: path, alt: example.names.en });
      return make("li", {}, make("button", { type: "button", title: example.names.en, "aria-pressed": "false", onclick: take }, image));
    })
  );
  const take = (query) => {
    if (about.asks) return promptFor(query);
    at("query").value = query;
    searchFor(query);
  };
  at(about.asks ? "prompts" : "queries").replaceChildren(
    ...about.queries.map((query) => make("li", {}, make("button", { type: "button", onclick: () => take(query) }, caption(query))))
  );
}

function listen() {
  listenForPictures();
  at("trouble-close").addEventListener("click", () => trouble(""));
  at("language").addEventListener("change", (event) => setLabels(namesIn(event.target.value)));
  at("query").addEventListener("input", (event) => searchFor(event.target.value, PAUSE));
  at("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    searchFor(at("query").value);
  });
  at("prompt-form").addEventListener("submit", (event) => {
    event.preventDefault();
    promptFor(at("prompt").value);
  });
  at("similar").addEventListener("click", () => state.picture && search(0, {}));
  document.querySelectorAll(".switch button").forEach((button) => button.addEventListener("click", () => setView(button.dataset.view)));
}

/** What to begin with can be asked for in the address: ?example=2&language=de&label=Hund&label=Katze&view=label&look=Hund&query=Vogel */
async function begin() {
  const asked = new URLSearchParams(location.search);
  whileWaiting((error) => state.about || trouble(error));
  try {
    await enter();
    state.about = await ask("/api/about");
    trouble("");
  } catch (error) {
    return trouble(error.message);
  }
  const spoken = state.about.languages.map(({ code }) => code);
  const language = [asked.get("language"), "en", ...spoken].find((code) => spoken.includes(code));
  drawAbout(state.about, language);
  listen();
  const place = Number(asked.get("example") ?? 0);
  if (state.about.asks) {
    at("prompt").value = asked.get("prompt") ?? state.about.queries[0];
    await takeFrom(0, `/api/example/${place}`, place);
    if (asked.get("prompt")) promptFor(asked.get("prompt"));
    return;
  }
  const labels = asked.getAll("label");
  state.view = ["label", "attention"].includes(asked.get("view")) ? asked.get("view") : "none";
  state.look = asked.get("look");
  setLabels(labels.length ? labels : namesIn(language));
  showHeat();
  takeFrom(0, `/api/example/${place}`, place);
  const query = asked.get("query") ?? state.about.queries[0] ?? "";
  at("query").value = query;
  searchFor(query);
}

begin();
