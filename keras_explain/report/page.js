"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const rounds = Object.values(data.rounds);
const of = (id) => document.getElementById(id);
const FOR = [255, 90, 70], AGAINST = [91, 157, 255], OUTLINE = "#ffd400";
const LINES = ["#56b4e9", "#e69f00", "#009e73", "#f0e442", "#cc79a7", "#d55e00", "#8fa8ff", "#dddddd"];
const DASHES = ["", "6 2", "2 2", "8 2 2 2"];
const MOST_DECODED = 400, SMOOTHED = 60, STRONGEST = 0.05, PLAYED = 800, DRAWN = 256;
const compared = Object.keys(data.agreement).length > 0;
const state = { round: rounds.length - 1, beside: null, mode: "overlay", opacity: 0.6, sign: 0, shared: false, roi: true,
  slice: new Map(), channel: new Map() };

// --- small helpers -----------------------------------------------------------------------------------------------
function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made && name !== "list") made[name] = value; else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}
function svg(tag, properties, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(properties)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}
const short = (x, digits = 3) => (x === null || x === undefined ? "–" : String(Number(x.toPrecision(digits))));
const signed = (x) => (x === null ? "–" : `${x < 0 ? "−" : "+"}${short(Math.abs(x))}`);
const words = (name) => name.replaceAll("_", " ");
const named = (method) => data.names[method] ?? words(method);

// --- pixels ------------------------------------------------------------------------------------------------------
const decoded = new Map();
function pixels(src) {
  let found = decoded.get(src);
  if (found) { decoded.delete(src); } else {
    found = (async () => {
      const image = new Image();
      image.src = src;
      await image.decode();
      const canvas = el("canvas", { width: image.naturalWidth, height: image.naturalHeight });
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(image, 0, 0);
      return context.getImageData(0, 0, canvas.width, canvas.height);
    })();
    if (decoded.size >= MOST_DECODED) decoded.delete(decoded.keys().next().value);
  }
  decoded.set(src, found);
  return found;
}
// Where pixel (0, 0) of slice s lies in a picture of several slices.
function tile([depth, height, width], s) {
  const across = Math.ceil(Math.sqrt(depth));
  return [Math.floor(s / across) * height, (s % across) * width];
}
async function valuesOf(plane, slice, [, height, width]) {
  const stored = await pixels(plane.src), [, h, w] = plane.shape, [top, left] = tile(plane.shape, slice);
  const values = new Float32Array(height * width);
  for (let y = 0; y < height; y++) {
    const row = (top + Math.min(h - 1, Math.floor((y * h) / height))) * stored.width;
    for (let x = 0; x < width; x++) {
      const level = (stored.data[4 * (row + left + Math.min(w - 1, Math.floor((x * w) / width)))] - 128) / 127;
      values[y * width + x] = Math.sign(level) * level * level * plane.max;
    }
  }
  return values;
}
function blurred(values, height, width) {
  const reach = Math.max(1, Math.round(Math.max(height, width) / SMOOTHED / 2));
  let now = values;
  for (const [step, across, count, along] of [[1, width, height, width], [width, 1, width, height],
    [1, width, height, width], [width, 1, width, height]]) {
    const next = new Float32Array(now.length);
    for (let line = 0; line < count; line++) {
      for (let i = 0; i < along; i++) {
        let sum = 0, number = 0;
        for (let k = Math.max(0, i - reach); k <= Math.min(along - 1, i + reach); k++) { sum += now[line * across + k * step]; number++; }
        next[line * across + i * step] = sum / number;
      }
    }
    now = next;
  }
  return now;
}
function edges(context, inside, height, width, zoom, styles) {
  const path = new Path2D();
  const line = (a, b, c, d) => { path.moveTo(a * zoom, b * zoom); path.lineTo(c * zoom, d * zoom); };
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (!inside(y * width + x)) continue;
      if (y === 0 || !inside((y - 1) * width + x)) line(x, y, x + 1, y);
      if (y === height - 1 || !inside((y + 1) * width + x)) line(x, y + 1, x + 1, y + 1);
      if (x === 0 || !inside(y * width + x - 1)) line(x, y, x, y + 1);
      if (x === width - 1 || !inside(y * width + x + 1)) line(x + 1, y, x + 1, y + 1);
    }
  }
  for (const [style, thickness] of styles) {
    context.strokeStyle = style; context.lineWidth = thickness; context.lineCap = "square"; context.stroke(path);
  }
}
// What is drawn on one canvas: an image, and over it a map, the difference of two, or a superpixel.
async function draw(canvas, { image, plane = null, minus = null, limit = 1, slice = 0, channel = 0, sign = state.sign, zoom = 1,
  segments = null, chosen = null }) {
  const [, height, width] = image.shape;
  const base = await pixels(image.planes[channel]), [top, left] = tile(image.shape, slice);
  const shown = plane !== null && state.mode !== "none";
  let values = shown ? await valuesOf(plane, slice, image.shape) : null;
  if (shown && minus) { const other = await valuesOf(minus, slice, image.shape); values = values.map((v, i) => v - other[i]); }
  const region = state.roi && image.roi && (plane || segments) ? await pixels(image.roi) : null;
  const labels = segments ? await pixels(segments.src) : null;
  const picture = new ImageData(width, height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const i = y * width + x, from = 4 * ((top + y) * base.width + left + x);
      let strength = 0;
      if (values && state.mode !== "contour") {
        strength = Math.max(-1, Math.min(1, values[i] / limit));
        if (sign * strength < 0) strength = 0;
      }
      const colour = strength < 0 ? AGAINST : FOR, share = Math.abs(strength) * (state.mode === "alone" ? 1 : state.opacity);
      for (let c = 0; c < 3; c++) {
        const grey = (base.data[from] + base.data[from + 1] + base.data[from + 2]) / 3;
        const under = !plane && !segments ? base.data[from + c] : state.mode === "alone" ? 0 : grey;
        picture.data[4 * i + c] = under + share * (colour[c] - under);
      }
      picture.data[4 * i + 3] = 255;
    }
  }
  const small = el("canvas", { width, height });
  small.getContext("2d").putImageData(picture, 0, 0);
  canvas.width = width * zoom; canvas.height = height * zoom;
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
  const thin = Math.max(1, canvas.width / 256);
  if (values && state.mode === "contour") {
    const smooth = blurred(values, height, width);
    const sizes = smooth.map(Math.abs).sort();
    const cut = sizes[Math.floor(smooth.length * (1 - STRONGEST))] || sizes[sizes.length - 1] / 2;
    for (const [side, colour] of [[1, FOR], [-1, AGAINST]]) {
      if (sign * side < 0 || cut === 0) continue;
      edges(context, (i) => side * smooth[i] >= cut, height, width, zoom, [["#000", 3 * thin], [`rgb(${colour})`, 1.6 * thin]]);
    }
  }
  const at = ([, h, w], stored, s) => { const [t, l] = tile([image.shape[0], h, w], s);
    return (i) => 4 * ((t + Math.floor(i / width)) * stored.width + l + (i % width)); };
  if (labels) {
    const where = at(image.shape, labels, slice);
    const label = (i) => 256 * labels.data[where(i)] + labels.data[where(i) + 1];
    if (chosen !== null) edges(context, (i) => label(i) === chosen, height, width, zoom, [["#000", 4 * thin], ["#fff", 2 * thin]]);
  }
  if (region) {
    const where = at(image.shape, region, slice);
    edges(context, (i) => region.data[where(i)] > 127, height, width, zoom, [["#000", 3 * thin], [OUTLINE, 1.5 * thin]]);
  }
  canvas.dataset.drawn = "yes";
}

// --- what is where -----------------------------------------------------------------------------------------------
const rowOf = (round, slot) => round.rows.find((row) => row.slot === slot);
const titleOf = (round, map) => round.methods[map.method].title;
const sameMap = (round, row, title, target) => row && row.maps.find((map) => titleOf(round, map) === title && map.target === target);
function limitOf(round, row, map) {
  if (!state.shared) return map.limit;
  const alike = rounds.map((other) => sameMap(other, rowOf(other, row.slot), titleOf(round, map), map.target));
  return Math.max(...alike.filter(Boolean).map((other) => other.limit));
}
const sliceOf = (row) => state.slice.get(row.slot) ?? Math.floor((data.images[row.image]?.shape[0] ?? 1) / 2);
const channelOf = (row) => state.channel.get(row.slot) ?? 0;

// --- canvases are drawn when they come into view, and again when something changes --------------------------------
// Those out of view follow when there is time, so that a print has all of them.
const wanted = new Map(), inView = new Set(), late = new Set();
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) { inView.add(entry.target); if (late.has(entry.target)) refresh(entry.target); } else inView.delete(entry.target);
  }
}, { rootMargin: "300px" });
function refresh(canvas) { late.delete(canvas); return draw(canvas, wanted.get(canvas)()); }
const idle = window.requestIdleCallback ? (work) => requestIdleCallback(work, { timeout: 200 }) : (work) => setTimeout(work, 50);
let waiting = false;
function catchUp() {
  if (waiting) return;
  waiting = true;
  idle(async () => {
    const next = late.values().next().value;
    try { if (next) await refresh(next); } finally { waiting = false; }
    if (late.size) catchUp();
  });
}
function view(options, label, open) {
  const canvas = el("canvas", { role: "img" });
  const { image } = options();
  canvas.setAttribute("aria-label", label);
  canvas.style.aspectRatio = `${image.shape[2]} / ${image.shape[1]}`;
  wanted.set(canvas, options);
  late.add(canvas);
  watcher.observe(canvas);
  catchUp();
  return open ? el("button", { className: "view", type: "button", onclick: open, "aria-label": `${label}. Open` }, canvas) : canvas;
}
function forget(place) {
  for (const canvas of place.querySelectorAll("canvas")) { watcher.unobserve(canvas); for (const known of [wanted, inView, late]) known.delete(canvas); }
  place.replaceChildren();
}
let due = false;
function redraw() {
  if (due) return;
  due = true;
  requestAnimationFrame(() => {
    due = false;
    for (const canvas of wanted.keys()) late.add(canvas);
    inView.forEach(refresh);
    catchUp();
  });
}

// --- the grid ----------------------------------------------------------------------------------------------------
const enlarged = (image, least) => Math.max(1, Math.round(least / Math.max(image.shape[1], image.shape[2])));
function marks(map) {
  return el("ul", { className: "marks" }, ...map.verdicts.map(([text, good]) =>
    el("li", { className: good ? "good" : "bad" }, `${good ? "✓" : "✗"} ${text}`)));
}
function bar(limit, unit, positive) {
  return [el("div", { className: positive ? "key positive" : "key" }),
    el("div", { className: "scale" }, positive ? null : el("span", {}, `−${short(limit, 2)}`), el("span", {}, "0"), el("span", {}, short(limit, 2))),
    el("div", { className: "facts" }, `${unit}, cut at 99.5 %`)];
}
function mapLabel(round, row, map) {
  const said = map.verdicts.map(([text]) => text).join(", ");
  return `${titleOf(round, map)}, why ${map.target}? image ${row.facts[0][1]}, ${round.title}. Full colour at ${short(map.limit, 2)} `
    + `${round.methods[map.method].unit}. ${said}`;
}
function cell(round, row, map, zoom = null, sign = undefined, open = true) {
  const image = data.images[row.image];
  const options = () => ({ image, plane: map.planes[channelOf(row)], limit: limitOf(round, row, map), slice: sliceOf(row),
    channel: channelOf(row), zoom: zoom ?? enlarged(image, DRAWN), ...(sign === undefined ? {} : { sign }) });
  return view(options, mapLabel(round, row, map), open ? () => openDetail(row.slot, titleOf(round, map)) : null);
}
function original(row, zoom = null) {
  const image = data.images[row.image];
  return view(() => ({ image, slice: sliceOf(row), channel: channelOf(row), zoom: zoom ?? enlarged(image, DRAWN) }),
    `Image ${row.facts[0][1]}, unmarked`, null);
}
function difference(row, a, b, zoom = null) {
  const image = data.images[row.image], k = channelOf(row);
  return view(() => ({ image, plane: a.planes[k], minus: b.planes[k], limit: Math.max(a.limit, b.limit), slice: sliceOf(row), channel: k,
    zoom: zoom ?? enlarged(image, DRAWN) }), `Difference of the maps of image ${row.facts[0][1]}`, null);
}
function facts(row) {
  const image = data.images[row.image];
  return [...row.facts.map(([name, value]) => el("p", { className: "facts" }, `${name} `, el("b", {}, value))),
    image ? el("p", { className: "facts" }, image.window) : null];
}
// The same slice and channel in the grid and in the opened map.
function follow() {
  for (const control of document.querySelectorAll(".slice, .channel")) control.follow();
  redraw();
}
function scrollers(row) {
  const image = data.images[row.image], made = [];
  if (!image) return made;
  const depth = image.shape[0];
  if (depth > 1) {
    const told = el("output", {}, `${sliceOf(row) + 1} of ${depth}`);
    const slider = el("input", { type: "range", className: "slice", min: 0, max: depth - 1 });
    slider.value = sliceOf(row);
    slider.follow = () => { slider.value = sliceOf(row); told.value = `${sliceOf(row) + 1} of ${depth}`; };
    slider.oninput = () => { state.slice.set(row.slot, Number(slider.value)); follow(); };
    made.push(el("label", {}, "slice ", slider), told);
  }
  if (image.channels.length) {
    const choice = el("select", { className: "channel" }, ...image.channels.map((name, k) => el("option", { value: k }, name)));
    choice.follow = () => { choice.value = channelOf(row); };
    choice.follow();
    choice.onchange = () => { state.channel.set(row.slot, Number(choice.value)); follow(); };
    made.push(el("label", {}, "channel ", choice));
  }
  return made;
}
function agreementOf(slot, title) {
  const rho = data.agreement[slot]?.[title];
  return rho === undefined ? null : el("div", { className: "facts" }, `rank agreement ${rho.toFixed(2)}`);
}
function beside(round, row, map) {
  const other = rounds[state.beside], otherRow = rowOf(other, row.slot);
  const otherMap = sameMap(other, otherRow, titleOf(round, map), map.target);
  if (!otherMap) {
    return el("div", {}, el("div", { className: "pair" }, el("div", {}, cell(round, row, map), marks(map)),
      el("div", { className: "facts" }, `not in ${other.title}`)));
  }
  const same = otherRow.image === row.image || compared;
  return el("div", {},
    el("div", { className: "pair" },
      el("div", {}, cell(round, row, map), el("div", { className: "facts" }, `${round.title}, score ${short(map.score)}`), marks(map)),
      el("div", {}, cell(other, otherRow, otherMap), el("div", { className: "facts" }, `${other.title}${same ? "" : ", another image"}, score ${short(otherMap.score)}, full at ${short(limitOf(other, otherRow, otherMap), 2)}`), marks(otherMap)),
      same ? el("div", {}, difference(row, map, otherMap), el("div", { className: "facts" }, `first minus second, full at ${short(Math.max(map.limit, otherMap.limit), 2)}`)) : null),
    agreementOf(row.slot, titleOf(round, map)));
}
function gridRow(round, row) {
  if (row.figure) {
    return el("tr", {}, el("th", { scope: "row" }, ...facts(row)), el("td", { colSpan: Math.max(1, round.methods.length), style: "max-width: none; width: auto" },
      el("img", { className: "static", src: row.figure, alt: `Image ${row.facts[0][1]} and its explanations` })));
  }
  const shown = data.images[row.image];
  const other = compared && rowOf(rounds[state.beside], row.slot);
  const head = el("th", { scope: "row" }, shown ? original(row) : null, ...scrollers(row), ...facts(row),
    ...(other ? other.facts.slice(1).map(([name, value]) => el("p", { className: "facts" }, `${rounds[state.beside].title}: ${name} `, el("b", {}, value))) : []));
  const columns = round.methods.map((method, m) => {
    const map = row.maps.find((one) => one.method === m);
    if (!map) return el("td", {}, "–");
    if (!map.planes) return el("td", {}, `score ${short(map.score)}`, marks(map));
    const picture = state.beside === null ? cell(round, row, map) : beside(round, row, map);
    return el("td", {}, map.own ? null : el("div", { className: "facts" }, `why ${map.target}?`), picture, ...bar(limitOf(round, row, map), method.unit, map.positive), state.beside === null ? marks(map) : null);
  });
  return el("tr", { className: "sample" }, head, ...columns);
}
function troubles() {
  const lines = Object.values(data.trouble).map((words) => el("li", {}, words));
  return lines.length ? [el("strong", {}, "In the whole training, each kind of trouble once:"), el("ul", {}, ...lines)] : [];
}
function warningsOf(round) {
  const grouped = new Map();
  for (const row of round.rows) {
    for (const map of row.maps) {
      for (const [, good, sentence] of map.verdicts) {
        if (!good) grouped.set(sentence, [...(grouped.get(sentence) ?? []), `${titleOf(round, map)} of image ${row.facts[0][1]}${map.own ? "" : ` for ${map.target}`}`]);
      }
    }
  }
  const said = [...grouped].map(([sentence, maps]) => el("li", {}, sentence, ` (${maps.length > 4 ? `${maps.length} maps, such as ${maps.slice(0, 3).join("; ")}` : maps.join("; ")})`));
  if (round.guesses) said.unshift(el("li", {}, "The network is right about no more images than guessing gives: its maps explain guesses, whatever is ticked below."));
  for (const [what, error] of round.failures) said.push(el("li", {}, `${what} failed: ${error}`));
  if (round.stopped.length) said.push(el("li", {}, `Left out to keep the time limit: ${round.stopped.join(", ")}`));
  for (const name of round.missing) said.push(el("li", {}, `${name}: no image of this class is predicted correctly.`));
  const checks = round.rows.flatMap((row) => row.maps).flatMap((map) => map.verdicts);
  const failed = checks.filter(([, good]) => !good).length;
  const head = checks.length ? `${failed} of ${checks.length} checks speak against a map${failed ? ":" : "."}` : "No check was made of these maps.";
  said.push(...(data.notes ?? []).map((note) => el("li", {}, note)));
  const clean = checks.length && !said.length && !troubles().length;
  return el("div", { className: clean ? "warnings none" : "warnings", role: "note" }, el("strong", {}, clean ? `✓ ${head}` : head), el("ul", {}, ...said), ...troubles());
}
function showRound() {
  const round = rounds[state.round], grid = of("grid");
  if (!round) { grid.replaceChildren(el("p", {}, "There is no round yet."), el("div", { className: "warnings", role: "note" }, ...troubles())); return; }
  const held = grid.contains(document.activeElement) ? [...grid.querySelectorAll("button, input, select, .scroll")].indexOf(document.activeElement) : -1;
  forget(grid);
  const columns = round.methods.map((method) => el("th", { scope: "col" }, method.title));
  const accuracies = (compared ? rounds : [round]).filter((one) => one.accuracy !== null).map((one) =>
    `${compared ? `${one.title}: ` : ""}${one.accuracy.toFixed(3)}`);
  const chance = round.chance === null ? "" : ` (guessing gives about ${short(round.chance, 2)})`;
  const accuracy = accuracies.length ? el("p", {}, `Accuracy on the images looked at: ${accuracies.join(", ")}${chance}`) : null;
  grid.append(el("h2", {}, round.title), ...(accuracy ? [accuracy] : []), warningsOf(round),
    el("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": "Images and maps" },
      el("table", { className: state.beside === null ? "maps" : "maps wide" }, el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "image"), ...columns)),
        el("tbody", {}, ...round.rows.map((row) => gridRow(round, row))))));
  if (held >= 0) [...grid.querySelectorAll("button, input, select, .scroll")][held]?.focus({ preventScroll: true });
  table(of("numbers"), [["number", "value"], ...round.numbers.map(([name, value]) => [name, short(value, 6)])]);
  table(of("settings"), [["name", "value"], ...round.settings, ...round.versions]);
  of("methods").replaceChildren(...round.methods.flatMap((method) => [el("dt", {}, method.title),
    el("dd", {}, method.says, method.failing ? ` Known failing: ${method.failing}` : "",
      method.settings.length ? ` Settings: ${method.settings.map(([name, value]) => `${words(name)} ${value}`).join(", ")}.` : "")]));
  of("shown").value = round.title;
  of("round").value = state.round;
  of("round").setAttribute("aria-valuetext", round.title);
  for (const cursor of document.querySelectorAll(".cursor")) {
    cursor.style.display = round.epoch === null ? "none" : "";
    if (round.epoch !== null) { const x = cursor.place(round.epoch); cursor.setAttribute("x1", x); cursor.setAttribute("x2", x); }
  }
}
function table(place, [head, ...rows]) {
  place.replaceChildren(el("table", {}, el("thead", {}, el("tr", {}, ...head.map((text) => el("th", { scope: "col" }, text)))),
    el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map((text) => el("td", {}, String(text))))))));
}

// --- one map at its own size -------------------------------------------------------------------------------------
const detail = of("detail");
let opened = null;
function openDetail(slot, title) {
  opened = { slot, title };
  const image = data.images[rowOf(rounds[state.round], slot).image];
  const most = Math.max(1, Math.floor(1400 / image.shape[2]));
  of("zoom").replaceChildren(...[1, 2, 3, 4, 6, 8].filter((zoom) => zoom <= most).map((zoom) =>
    el("option", { value: zoom }, zoom === 1 ? "one to one" : `${zoom} times`)));
  of("zoom").value = String([1, 2, 3, 4, 6, 8].filter((zoom) => zoom <= Math.max(1, 360 / image.shape[2])).pop());
  showDetail();
  if (!detail.open) detail.showModal();
}
const captioned = (picture, ...text) => {
  const canvas = picture.matches("canvas") ? picture : picture.querySelector("canvas"), { image, zoom } = wanted.get(canvas)();
  const width = image.shape[2] * zoom;
  canvas.style.width = `${width}px`;
  return el("figure", { style: `width: ${Math.max(width, 240)}px` }, picture, el("figcaption", {}, ...text));
};
function showDetail() {
  const round = rounds[state.round], row = opened && rowOf(round, opened.slot), body = of("detail-body"), zoom = Number(of("zoom").value);
  forget(body);
  if (!row) return;
  const maps = row.maps.filter((map) => titleOf(round, map) === opened.title), map = maps[0];
  of("detail-title").textContent = `${opened.title}: image ${row.facts[0][1]}, ${round.title}`;
  if (!map) { body.append(el("p", {}, "This round has no such map.")); return; }
  const unit = round.methods[map.method].unit, image = data.images[row.image];
  body.append(...scrollers(row), el("div", { className: "pictures" },
    captioned(original(row, zoom), ...facts(row)),
    captioned(el("div", {}, cell(round, row, map, zoom, 0, false), ...bar(limitOf(round, row, map), unit, map.positive)), `why ${map.target}?`, marks(map)),
    captioned(cell(round, row, map, zoom, 1, false), `for ${map.target}`),
    map.positive ? null : captioned(cell(round, row, map, zoom, -1, false), `against ${map.target}`)));
  const failed = map.verdicts.filter(([, good]) => !good);
  if (failed.length) body.append(el("div", { className: "warnings" }, ...failed.map(([, , sentence]) => el("p", {}, sentence))));
  const other = state.beside === null ? null : rounds[state.beside];
  const otherRow = other && rowOf(other, row.slot), otherMap = other && sameMap(other, otherRow, opened.title, map.target);
  if (otherMap) {
    body.append(el("h3", {}, `Beside ${other.title}`), el("div", { className: "pictures" },
      captioned(cell(round, row, map, zoom, undefined, false), round.title), captioned(cell(other, otherRow, otherMap, zoom, undefined, false), other.title),
      otherRow.image === row.image || compared ? captioned(difference(row, map, otherMap, zoom), `first minus second, full at ${short(Math.max(map.limit, otherMap.limit), 2)}`) : null), agreementOf(row.slot, opened.title) ?? "");
  }
  if (map.superpixels) body.append(...superpixels(row, map, image, zoom));
  body.append(el("h3", {}, "Why not another class?"));
  if (maps.length > 1) {
    body.append(el("p", {}, `One scale for all classes.${map.delta === null ? "" : " Δ is the change of the class's score from the baseline or background to the image, Σ the sum of its map."}`));
    const limit = Math.max(...maps.map((one) => one.limit));
    body.append(el("div", { className: "pictures" }, ...maps.map((one) => captioned(
      view(() => ({ image, plane: one.planes[channelOf(row)], limit, slice: sliceOf(row), channel: channelOf(row), zoom: Math.max(1, Math.round(0.6 * zoom)) }), mapLabel(round, row, one), null),
      el("b", {}, one.own ? `why ${one.target}?` : `why not ${one.target}?`), el("br"), `score ${signed(one.score)}${one.delta === null ? "" : `, Δ ${signed(one.delta)}, Σ ${signed(one.sum)}`}`,
      one.error === null ? "" : `, misses ${short(100 * one.error, 2)} %`))), el("div", { className: "common" }, ...bar(limit, unit, false)));
  } else body.append(el("p", {}, `Only ${map.target} was explained by this method; ask for the others with `, el("code", {}, "why_not"), " of the callback or ", el("code", {}, "targets=\"all\""), "."));
  const place = el("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": "Measures of this map" });
  table(place, [["measure", "value"], ["score", short(map.score)],
    ...(map.base === null ? [] : [["score of baseline or background", short(map.base)], ["sum of the map", short(map.sum)]]),
    ...map.measures.map(([name, value]) => [words(name), short(value, 4)])]);
  body.append(el("h3", {}, "Measures of this map"), place);
}
function superpixels(row, map, image, zoom) {
  const { weights, errors, r2, effect } = map.superpixels;
  let chosen = null;
  const canvas = view(() => ({ image, plane: map.planes[channelOf(row)], limit: map.limit, slice: sliceOf(row), channel: channelOf(row), zoom, segments: map.superpixels, chosen }),
    "The superpixel that is chosen in the table", null);
  const order = weights.map((weight, k) => k).filter((k) => weights[k] !== null).sort((a, b) => Math.abs(weights[b]) - Math.abs(weights[a])).slice(0, 12);
  const lines = order.map((k) => {
    const choose = () => { chosen = k; lines.forEach((line) => line.classList.toggle("chosen", line === made)); refresh(canvas); };
    const made = el("tr", { onmouseenter: choose }, el("td", {}, el("button", { type: "button", onclick: choose, onfocus: choose }, `superpixel ${k + 1}`)),
      el("td", {}, signed(weights[k])), el("td", {}, `± ${short(errors[k], 2)}`));
    return made;
  });
  return [el("h3", {}, "Superpixels"), el("p", {}, `R² of the surrogate ${short(r2, 2)}, effect of hiding ${short(effect, 2)} logit`),
    el("div", { className: "pictures" }, captioned(canvas), el("table", { id: "segments" }, el("thead", {}, el("tr", {}, ...["superpixel", "weight", "standard error"].map((text) => el("th", { scope: "col" }, text)))), el("tbody", {}, ...lines)))];
}

// --- curves ------------------------------------------------------------------------------------------------------
// A training that was resumed knows its own rounds only.
function wholeHistory() {
  const epochs = [...new Set(rounds.flatMap((round) => round.history.epochs))].sort((a, b) => a - b), curves = Object.create(null);
  for (const { history } of rounds) {
    for (const [name, lines] of Object.entries(history.curves)) {
      for (const [method, line] of Object.entries(lines)) {
        const whole = ((curves[name] ??= Object.create(null))[method] ??= epochs.map(() => null));
        line.forEach((value, i) => { whole[epochs.indexOf(history.epochs[i])] = value; });
      }
    }
  }
  return { epochs, curves };
}
function showCurves() {
  const { epochs, curves } = wholeHistory();
  const names = Object.keys(curves).filter((name) => !Object.values(data.chance).includes(name));
  if (!names.length || epochs.length < 2) return;
  of("curves").hidden = false;
  const methods = [...new Set(names.flatMap((name) => Object.keys(curves[name])))];
  const colour = (method) => LINES[methods.indexOf(method) % LINES.length];
  const dash = (method) => DASHES[Math.floor(methods.indexOf(method) / LINES.length) % DASHES.length];
  const [width, height, left, bottom] = [270, 130, 44, 18];
  const x = (epoch) => left + 6 + ((epoch - epochs[0]) / (epochs[epochs.length - 1] - epochs[0])) * (width - left - 20);
  of("plots").append(el("div", { className: "legend" }, ...methods.map((method) => el("span", {},
    svg("svg", { width: 26, height: 10, "aria-hidden": "true" }, svg("line", { x1: 0, x2: 26, y1: 5, y2: 5, stroke: colour(method), "stroke-width": 2, "stroke-dasharray": dash(method) })), ` ${named(method)}`))));
  for (const name of names) {
    const chance = Object.values(curves[data.chance[name]] ?? {})[0] ?? [];
    const all = [...Object.values(curves[name]).flat(), ...chance].filter((v) => v !== null);
    if (!all.length) continue;
    let [low, high] = [Math.min(...all), Math.max(...all)];
    const log = name.endsWith("_error") && low > 0 && high / low > 30;
    const scale = log ? Math.log10 : (v) => v;
    if (low === high) [low, high] = low >= 0 && low <= 1 && !log ? [0, 1] : [low - Math.abs(low) / 2, high + Math.abs(high) / 2];
    const y = (v) => 6 + (1 - (scale(v) - scale(low)) / (scale(high) - scale(low))) * (height - bottom - 12);
    const path = (line) => line.map((v, i) => (v === null ? "" : `${i && line[i - 1] !== null ? "L" : "M"}${x(epochs[i])} ${y(v)}`)).join("");
    const cursor = svg("line", { class: "cursor", y1: 0, y2: height - bottom, stroke: "#ffffff", "stroke-width": 1 });
    cursor.place = x;
    const plot = svg("svg", { width, height, role: "img", "aria-label": `${words(name)} over epochs; the numbers are in the table below` },
      svg("line", { x1: left, x2: width - 8, y1: height - bottom, y2: height - bottom, stroke: "#777" }), cursor,
      ...[low, high].map((v) => svg("text", { x: left - 4, y: y(v) + 4, "text-anchor": "end" }, short(v, 2))),
      ...[epochs[0], epochs[epochs.length - 1]].map((e, i) => svg("text", { x: x(e), y: height - 4, "text-anchor": i ? "end" : "start" }, `epoch ${e + 1}`)));
    if (chance.length) plot.append(svg("path", { d: path(chance), fill: "none", stroke: "#999", "stroke-dasharray": "3 3" }));
    for (const [method, line] of Object.entries(curves[name])) {
      plot.append(svg("path", { d: path(line), fill: "none", stroke: colour(method), "stroke-width": 1.8, "stroke-dasharray": dash(method) }));
      line.forEach((v, i) => v === null || plot.append(svg("circle", { cx: x(epochs[i]), cy: y(v), r: 2, fill: colour(method) })));
    }
    of("plots").append(el("figure", {}, plot, el("figcaption", {}, words(name) + (log ? " (logarithmic)" : "") + (chance.length ? ", dashed: chance" : ""))));
  }
  table(of("plots-table"), [["measure", "method", ...epochs.map((e) => `epoch ${e + 1}`)], ...names.flatMap((name) =>
    Object.entries(curves[name]).map(([method, line]) => [words(name), named(method), ...line.map((v) => short(v))]))]);
}

// --- controls ----------------------------------------------------------------------------------------------------
function goTo(round) {
  state.round = (round + rounds.length) % rounds.length;
  showRound();
  if (detail.open) showDetail();
}
let timer = null;
function play(on) {
  clearInterval(timer);
  timer = on ? setInterval(() => goTo(state.round + 1), PLAYED) : null;
  of("play").setAttribute("aria-pressed", String(on));
  of("play").textContent = on ? "⏸ pause" : "▶ play";
}
function set(name, value) {
  state[name] = value;
  for (const [id, key] of [["mode", "value"], ["opacity", "value"], ["sign", "value"], ["shared", "checked"], ["roi", "checked"]]) of(id)[key] = state[id];
  if (name === "shared") { showRound(); if (detail.open) showDetail(); } else redraw();
}
function start() {
  for (const round of rounds) {
    for (const row of round.rows) {
      for (const map of row.maps) {
        if (map.planes && map.planes.some((plane) => !plane.exact || data.images[row.image].shape[2] !== plane.shape[2])) of("losses").hidden = false;
      }
    }
  }
  const images = new Set(rounds.flatMap((round) => round.rows.map((row) => row.image)));
  of("shared").parentElement.hidden = rounds.length < 2;
  of("roi").parentElement.hidden = !Object.values(data.images).some((image) => image.roi);
  const many = compared ? "two side by side" : `${rounds.length} round${rounds.length > 1 ? "s" : ""}`;
  of("summary").textContent = `${many}, ${images.size} image${images.size > 1 ? "s" : ""}, ${rounds.at(-1)?.methods.length ?? 0} methods`;
  of("time").hidden = rounds.length < 2 || compared;
  of("round").max = rounds.length - 1;
  of("beside").append(el("option", { value: "" }, "nothing"), ...rounds.map((round, i) => el("option", { value: i }, round.title)));
  if (compared) { state.round = 0; state.beside = 1; of("beside").value = "1"; }
  of("round").oninput = () => goTo(Number(of("round").value));
  of("beside").onchange = () => { state.beside = of("beside").value === "" ? null : Number(of("beside").value); goTo(state.round); };
  of("play").onclick = () => play(timer === null);
  of("mode").onchange = () => set("mode", of("mode").value);
  of("opacity").oninput = () => set("opacity", Number(of("opacity").value));
  of("sign").onchange = () => set("sign", Number(of("sign").value));
  of("shared").onchange = () => set("shared", of("shared").checked);
  of("roi").onchange = () => set("roi", of("roi").checked);
  of("zoom").onchange = showDetail;
  of("close").onclick = () => detail.close();
  detail.addEventListener("close", () => { opened = null; forget(of("detail-body")); });
  document.addEventListener("keydown", (event) => {
    // Lists find their entries by letters, and sliders and what scrolls use arrows and space themselves.
    const own = event.target.matches("select") || (event.target.matches("input, .scroll") && /^Arrow| $/.test(event.key));
    if (!of("keys").checked || event.ctrlKey || event.metaKey || event.altKey || own) return;
    const pressing = event.target.matches("button, summary");
    const actions = { ...(compared ? {} : { ArrowLeft: () => goTo(state.round - 1), ArrowRight: () => goTo(state.round + 1) }),
      o: () => set("mode", state.mode === "none" ? "overlay" : "none"), c: () => set("mode", state.mode === "contour" ? "overlay" : "contour"),
      s: () => set("sign", { 0: 1, 1: -1, "-1": 0 }[state.sign]), x: () => set("shared", !state.shared), r: () => set("roi", !state.roi) };
    if (event.key === " " && !pressing && rounds.length > 1 && !compared) { event.preventDefault(); play(timer === null); }
    else if (actions[event.key]) { event.preventDefault(); actions[event.key](); }
  });
  let open = [];
  window.addEventListener("beforeprint", () => {
    play(false);
    open = [...document.querySelectorAll("main details:not([open], .long)")];
    open.forEach((one) => { one.open = true; });
  });
  window.addEventListener("afterprint", () => open.forEach((one) => { one.open = false; }));
  showCurves();
  showRound();
  document.body.dataset.ready = "yes";
}
start();
