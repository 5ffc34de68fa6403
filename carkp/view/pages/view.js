// The page of `carkp view`. Boxes and points are in pixels of the picture; x and y of a point are of a pixel's centre.

const SVG = "http://www.w3.org/2000/svg";
const MIN_BOX_PX = 4;
const ZOOM_MARGIN = 0.25;
const GRIP = 11; // pixels of the screen around a corner in which the mouse takes it
const BOX_FILE = /\.(csv|tsv|json|txt)$/i;
const MIB = 2 ** 20;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const CORNERS = [[0, 0, "nwse"], [1, 0, "nesw"], [0, 1, "nesw"], [1, 1, "nwse"]];

const $ = (id) => document.getElementById(id);
const state = {
  info: null, // of the server
  source: null, // what is looked at, and its `file`
  frame: 0,
  wanted: 0, // the frame that was asked for last
  picture: "", // address of the pixels that are shown
  boxes: new Map(), // frame -> [[x, y, width, height]]
  boxFile: null, // imported, for the frames of a video
  chosen: 0,
  isZoomed: false,
  shown: "both", // or the index of a model
  result: null, // of the newest prediction
  isStale: false, // the boxes have changed since
  drag: null,
};

// ---- server

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer: is `carkp view` still running?");
  }
  if (response.ok) return response;
  const answer = await response.json().catch(() => ({}));
  throw new Error(answer.error || `The server answered with status ${response.status}.`);
}

let numBusy = 0;

async function guarded(work) {
  document.body.classList.toggle("busy", ++numBusy > 0);
  try {
    await work();
  } catch (error) {
    if (error.name !== "AbortError") showError(error.message);
  } finally {
    document.body.classList.toggle("busy", --numBusy > 0);
  }
}

function showError(sentence) { // "": none
  $("sentence").textContent = sentence.charAt(0).toUpperCase() + sentence.slice(1) + (/[.!?]?$/.exec(sentence)[0] ? "" : ".");
  $("error").hidden = !sentence;
}

function showHeader(text) {
  $("models").textContent = [text, state.info.note].filter(Boolean).join(" – ");
}

function query(values) {
  return new URLSearchParams(values).toString();
}

// ---- pictures, videos, boxes

function openFile(file) {
  if (!file) return undefined;
  return guarded(async () => {
    showError("");
    const { video_mib: ofVideo, picture_mib: ofPicture } = state.info.limits;
    const most = file.type.startsWith("image/") ? ofPicture : ofVideo;
    if (file.size > most * MIB) throw new Error(`The file is larger than ${most} MiB, the upper limit.`);
    const orientation = state.source?.file === file && !$("upright").checked ? "ignore" : "apply";
    const response = await ask(`api/sources?${query({ name: file.name, orientation })}`, { method: "POST", body: file });
    const source = await response.json();
    if (state.source) ask(`api/sources/${state.source.key}`, { method: "DELETE" }).catch(() => {});
    Object.assign(state, { source: { ...source, file }, frame: 0, boxFile: null, chosen: 0, isZoomed: false, result: null });
    state.boxes.clear();
    $("upright").checked = source.orientation === "apply";
    showSource();
    await showFrame(0);
    if (source.notes.length) showError(`${source.name}: ${source.notes.join("; ")}.`);
  });
}

function showSource() {
  const { source } = state;
  $("start").hidden = true;
  $("work").hidden = $("other").hidden = false;
  $("turn").hidden = !source.is_turned;
  $("film").hidden = source.kind !== "video";
  $("frame").max = Math.max(source.num_frames - 1, 0);
  $("frame").value = 0;
  showHeader(`${source.name}, ${source.width} × ${source.height} pixels`);
  document.title = `${source.name} – carkp view`;
}

async function showFrame(frame) {
  const { source } = state;
  state.wanted = frame;
  showError("");
  const response = await ask(`api/sources/${source.key}/picture?${query({ frame })}`);
  const picture = URL.createObjectURL(await response.blob());
  if (state.source !== source || state.wanted !== frame) return; // another one was asked for meanwhile
  URL.revokeObjectURL(state.picture);
  const previous = boxes();
  Object.assign(state, { frame, picture, result: null });
  if (!state.boxes.has(frame)) state.boxes.set(frame, state.boxFile ? [] : previous.map((box) => [...box]));
  if (state.boxFile && !boxes().length) await importBoxes(state.boxFile).catch((error) => showError(error.message));
  state.chosen = Math.min(state.chosen, Math.max(boxes().length - 1, 0));
  showMoment();
  buildStages();
  await predict();
}

function showMoment() {
  const { source, frame } = state;
  const seconds = source.fps ? `, ${(frame / source.fps).toFixed(2)} s` : "";
  $("moment").textContent = `${frame} of ${Math.max(source.num_frames - 1, 0)}${seconds}`;
}

function boxes() {
  return state.boxes.get(state.frame) || [];
}

async function importBoxes(file) {
  const { source, frame } = state;
  const path = `api/sources/${source.key}/boxes?${query({ name: file.name, frame })}`;
  const answer = await (await ask(path, { method: "POST", body: file })).json();
  state.boxes.set(frame, answer.boxes);
  state.boxFile = source.kind === "video" ? file : null;
  state.chosen = 0;
}

function openBoxes(file) {
  if (!file || !state.source) return undefined;
  return guarded(async () => {
    showError("");
    await importBoxes(file);
    state.isZoomed = false;
    boxesChanged();
  });
}

let running = null;

async function predict() {
  running?.abort();
  const own = (running = new AbortController());
  const asked = { key: state.source.key, frame: state.frame, boxes: boxes() };
  try {
    const headers = { "Content-Type": "application/json" };
    const options = { method: "POST", headers, body: JSON.stringify(asked), signal: own.signal };
    const result = await (await ask("api/predict", options)).json();
    if (own.signal.aborted) return;
    result.cars = result.results.map((one) => one.document.images[result.image].cars);
    Object.assign(state, { result, isStale: false });
    draw();
  } catch (error) {
    if (error.name !== "AbortError") throw error;
  }
}

let timer = 0;

function boxesChanged(delay = 0) {
  state.isStale = true;
  draw();
  clearTimeout(timer);
  timer = setTimeout(() => guarded(async () => { await predict(); showError(""); }), delay);
}

// ---- boxes: made, moved, deleted

function pictureSize() {
  return state.source ? [state.source.width, state.source.height] : [1, 1];
}

const rounded = (value) => Math.round(value * 10) / 10;
const clamp = (value, low, high) => Math.min(Math.max(value, low), Math.max(low, high));

function moveBox([x, y, width, height], dx, dy) {
  const [W, H] = pictureSize();
  return [rounded(clamp(x + dx, 0, W - width)), rounded(clamp(y + dy, 0, H - height)), width, height];
}

function resizeBox([x, y, width, height], dx, dy) {
  const [W, H] = pictureSize();
  return [x, y, rounded(clamp(width + dx, MIN_BOX_PX, W - x)), rounded(clamp(height + dy, MIN_BOX_PX, H - y))];
}

function boxBetween([x1, y1], [x2, y2]) {
  const [W, H] = pictureSize();
  const [left, right] = [clamp(Math.min(x1, x2), 0, W), clamp(Math.max(x1, x2), 0, W)];
  const [top, bottom] = [clamp(Math.min(y1, y2), 0, H), clamp(Math.max(y1, y2), 0, H)];
  return [left, top, right - left, bottom - top].map(rounded);
}

function addBox() {
  const all = boxes();
  if (all.length >= state.info.limits.boxes) return showError(`At most ${state.info.limits.boxes} boxes are allowed.`);
  const [W, H] = pictureSize();
  const shift = (all.length % 6) * 0.03;
  all.push([W * (0.25 + shift), H * (0.25 + shift), W * 0.5, H * 0.5].map(rounded));
  state.boxes.set(state.frame, all);
  choose(all.length - 1);
  boxesChanged();
  return document.querySelector(`[data-key="box-${all.length - 1}"]`)?.focus({ preventScroll: true });
}

function deleteBox(index) {
  const all = boxes();
  all.splice(index, 1);
  state.chosen = clamp(index, 0, all.length - 1);
  if (!all.length) state.isZoomed = false;
  boxesChanged();
  const next = document.querySelector(`[data-key="box-${state.chosen}"]`) || $("add");
  next.focus({ preventScroll: true });
}

function changeBox(index, box, delay = 200) {
  boxes()[index] = box;
  boxesChanged(delay);
}

function choose(index) {
  state.chosen = index;
  draw();
}

function boxKey(event, index) {
  const arrow = ARROWS[event.key];
  if (arrow) {
    const step = event.ctrlKey || event.metaKey ? 1 : Math.max(1, Math.round(pictureSize()[0] / 100));
    const change = event.shiftKey ? resizeBox : moveBox;
    changeBox(index, change(boxes()[index], arrow[0] * step, arrow[1] * step));
  } else if (event.key === "Delete" || event.key === "Backspace") {
    deleteBox(index);
  } else if (event.key === "Enter" || event.key === " ") {
    choose(index);
  } else {
    return;
  }
  event.preventDefault();
}

// ---- mouse

function place(svg, event) {
  const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  return [point.x, point.y];
}

/** The box that a place means - the chosen one, else the smallest around it - and, of the chosen one, the corner. */
function meant([x, y], u) {
  const all = boxes();
  const isIn = ([left, top, width, height], margin) => x >= left - margin && x <= left + width + margin &&
    y >= top - margin && y <= top + height + margin;
  const chosen = all[state.chosen];
  if (chosen) {
    const reach = Math.min(GRIP * u, Math.max(chosen[2], chosen[3]) / 3);
    const corner = CORNERS.find(([right, lower]) => Math.abs(x - chosen[0] - right * chosen[2]) <= reach &&
      Math.abs(y - chosen[1] - lower * chosen[3]) <= reach);
    if (corner || isIn(chosen, 2 * u)) return { index: state.chosen, corner };
  }
  const around = [...all.keys()].filter((index) => isIn(all[index], 2 * u));
  around.sort((a, b) => all[a][2] * all[a][3] - all[b][2] * all[b][3]);
  return { index: around[0] ?? -1 };
}

function showCursor(event) {
  const svg = event.currentTarget;
  const { index, corner } = meant(place(svg, event), unit(svg));
  svg.style.cursor = corner ? `${corner[2]}-resize` : index < 0 ? "" : index === state.chosen ? "move" : "pointer";
}

function startDrag(event) {
  if (event.button !== 0 || state.drag) return;
  const svg = event.currentTarget;
  const start = place(svg, event);
  const { index, corner } = meant(start, unit(svg));
  const kind = corner ? "resize" : index >= 0 && index === state.chosen ? "move" : "draw";
  state.drag = { svg, start, index, kind, corner, before: boxes().map((box) => [...box]), hasMoved: false };
  svg.setPointerCapture(event.pointerId);
  hideTip();
}

function moveDrag(event) {
  const { drag } = state;
  if (!drag) {
    showCursor(event);
    return;
  }
  const now = place(drag.svg, event);
  const [dx, dy] = [now[0] - drag.start[0], now[1] - drag.start[1]];
  if (!drag.hasMoved && Math.hypot(dx, dy) < 4 * unit(drag.svg)) return;
  drag.hasMoved = true;
  const all = drag.before.map((box) => [...box]);
  if (drag.kind === "draw") {
    state.chosen = all.push(boxBetween(drag.start, now)) - 1;
  } else if (drag.kind === "move") {
    all[drag.index] = moveBox(all[drag.index], dx, dy);
  } else {
    const [x, y, width, height] = all[drag.index];
    const [right, lower] = drag.corner;
    const fixed = [x + (1 - right) * width, y + (1 - lower) * height];
    all[drag.index] = boxBetween(fixed, [x + right * width + dx, y + lower * height + dy]);
  }
  state.boxes.set(state.frame, all);
  state.isStale = true;
  draw();
}

function endDrag(event) {
  const { drag } = state;
  if (!drag) return;
  state.drag = null;
  const all = boxes();
  const isTooSmall = drag.hasMoved && drag.kind !== "move" && Math.min(...all[state.chosen].slice(2)) < MIN_BOX_PX;
  if (event.type === "pointercancel" || isTooSmall || all.length > state.info.limits.boxes) {
    state.boxes.set(state.frame, drag.before);
    state.chosen = clamp(state.chosen, 0, drag.before.length - 1);
  }
  if (drag.hasMoved) boxesChanged();
  else if (drag.index >= 0) choose(drag.index);
  if (drag.hasMoved || drag.index >= 0) {
    drag.svg.querySelector(`[data-key="box-${state.chosen}"]`)?.focus({ preventScroll: true });
  }
}

// ---- drawing

function element(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function html(name, properties = {}, ...children) {
  const { dataset, ...others } = properties;
  const made = Object.assign(document.createElement(name), others);
  Object.assign(made.dataset, dataset);
  made.append(...children);
  return made;
}

function shownModels() {
  return state.shown === "both" ? state.info.models.map((_, index) => index) : [state.shown];
}

function buildStages() {
  const shown = shownModels();
  $("stages").className = shown.length > 1 ? "two" : "";
  $("stages").replaceChildren(...shown.map((model) => {
    const svg = element("svg", { class: "stage", role: "group", preserveAspectRatio: "xMidYMid meet" });
    svg.setAttribute("aria-label", `${state.source.name} with the keypoints of ${state.info.models[model].label}`);
    svg.dataset.model = model;
    const listeners = { pointerdown: startDrag, pointermove: moveDrag, pointerup: endDrag, pointercancel: endDrag };
    for (const [name, listener] of Object.entries(listeners)) svg.addEventListener(name, listener);
    for (const name of ["mouseover", "focusin"]) svg.addEventListener(name, pointMeant);
    for (const name of ["mouseout", "focusout"]) svg.addEventListener(name, hideTip);
    svg.append(element("image", { width: pictureSize()[0], height: pictureSize()[1], href: state.picture }), element("g"));
    const { label, name, kind } = state.info.models[model];
    const caption = html("figcaption", {}, html("strong", { textContent: label }),
      html("span", { textContent: name, title: kind }), html("span", { className: "time" }));
    const figure = html("figure", {}, caption, html("div", { className: "frame" }, svg));
    resized.observe(figure);
    return figure;
  }));
  draw();
}

const resized = new ResizeObserver(() => { if (state.source && !state.drag) draw(); });

function draw() {
  if (!state.source) return;
  keepFocus(() => {
    drawStages();
    drawCars();
    drawTable();
  });
  $("whole").hidden = boxes().length > 0;
  $("zoom").disabled = !boxes().length;
  $("zoom").textContent = state.isZoomed ? "Show the whole picture" : "Zoom to the car";
  for (const button of $("saves").children) {
    button.disabled = button.dataset.save === "boxes" ? !boxes().length : !state.result || state.isStale;
  }
}

function keepFocus(work) {
  const active = document.activeElement;
  const key = active?.dataset?.key;
  const model = active?.closest?.(".stage")?.dataset.model;
  work();
  if (!key || document.contains(active)) return;
  const root = model === undefined ? document : document.querySelector(`.stage[data-model="${model}"]`);
  root?.querySelector(`[data-key="${key}"]`)?.focus({ preventScroll: true });
}

function view() {
  const [W, H] = pictureSize();
  const box = boxes()[state.chosen];
  if (!state.isZoomed || !box) return [0, 0, W, H];
  const margin = ZOOM_MARGIN * Math.max(box[2], box[3]);
  const [left, top] = [Math.max(box[0] - margin, 0), Math.max(box[1] - margin, 0)];
  return [left, top, Math.min(box[0] + box[2] + margin, W) - left, Math.min(box[1] + box[3] + margin, H) - top];
}

/** Pixels of the picture in a pixel of the screen. */
function unit(svg) {
  return 1 / (svg.getScreenCTM()?.a || 1);
}

function drawStages() {
  const seen = state.drag?.view || view();
  if (state.drag) state.drag.view = seen;
  for (const svg of document.querySelectorAll(".stage")) {
    svg.setAttribute("viewBox", seen.join(" "));
    svg.style.aspectRatio = `${seen[2]} / ${seen[3]}`;
    svg.style.maxWidth = `calc(72vh * ${seen[2] / seen[3]})`;
    svg.classList.toggle("stale", state.isStale);
    drawStage(svg, unit(svg));
  }
}

function drawStage(svg, u) {
  const model = Number(svg.dataset.model);
  const cars = state.result?.cars[model] || [];
  const all = boxes();
  const isDrawn = !state.isStale || cars.length === all.length;
  const drawn = [];
  for (let index = 0; index < Math.max(all.length, 1); index++) { // a box and its points: the order of the Tab key
    if (all[index]) drawn.push(drawBox(all[index], index, u));
    if (isDrawn && cars[index]) drawn.push(drawCar(cars[index], index, model, u));
  }
  svg.lastElementChild.replaceWith(element("g", {}, ...drawn));
  const time = state.result?.results[model].milliseconds;
  svg.closest("figure").querySelector(".time").textContent = time === undefined ? "" : `${time.toFixed(0)} ms`;
}

function drawBox([x, y, width, height], index, u) {
  const isChosen = index === state.chosen;
  const size = { x, y, width, height };
  const group = element("g", { class: `box${isChosen ? " chosen" : ""}`, tabindex: 0, role: "button" },
    element("rect", { ...size, class: "rim" }), element("rect", { ...size, class: "edge" }));
  group.setAttribute("aria-pressed", isChosen);
  group.setAttribute("aria-label", `Car ${index + 1}, x ${x}, y ${y}, width ${width}, height ${height}. ` +
    "Arrows move it, Shift and arrows resize it, Delete deletes it.");
  group.dataset.key = `box-${index}`;
  group.addEventListener("keydown", (event) => boxKey(event, index));
  group.addEventListener("focus", () => { if (state.chosen !== index && !state.drag) choose(index); });
  const isBelow = y < 20 * u;
  group.append(element("text", { x: x + 3 * u, y: isBelow ? y + 15 * u : y - 5 * u, "font-size": 13 * u,
    "stroke-width": 3.5 * u }, `${index + 1}`));
  if (isChosen) {
    for (const [right, lower] of CORNERS) {
      const [left, top] = [x + right * width - 4 * u, y + lower * height - 4 * u];
      group.append(element("rect", { class: "handle", x: left, y: top, width: 8 * u, height: 8 * u }));
    }
  }
  return group;
}

function drawCar(car, index, model, u) {
  const { skeleton, colours, score_thresholds: [least, sure] } = state.info;
  const isThere = car.scores.map((score) => score >= least);
  const at = car.points.map(([x, y]) => [x + 0.5, y + 0.5]);
  const size = clamp(Math.max(car.box[2], car.box[3]) / u / 45, 2.6, 6);
  const group = element("g", { class: "car" });
  for (const [a, b] of skeleton) {
    if (!isThere[a] || !isThere[b]) continue;
    const ends = { x1: at[a][0], y1: at[a][1], x2: at[b][0], y2: at[b][1] };
    const width = Math.min(car.scores[a], car.scores[b]) >= sure ? size / 2.6 : size / 5;
    group.append(element("line", { ...ends, stroke: "#222", "stroke-width": width + 1.6, "stroke-opacity": 0.75 }));
    group.append(element("line", { ...ends, stroke: lineColour(a, b), "stroke-width": width }));
  }
  const other = state.result.cars[1 - model]?.[index];
  at.forEach((point, k) => {
    if (!isThere[k]) return;
    if (isMoved(index, k)) group.append(...drawMove(point, other.points[k], state.result.moved_px[index][k], index, size, u));
    group.append(drawPoint(point, car.scores[k], k, index, size, u, colours));
  });
  return group;
}

function drawMove(from, [x, y], distance, index, size, u) {
  const { moved } = state.info.colours;
  const marks = [
    element("line", { x1: from[0], y1: from[1], x2: x + 0.5, y2: y + 0.5, stroke: moved, "stroke-width": 2 }),
    element("circle", { class: "ring", cx: from[0], cy: from[1], r: (size + 4) * u, stroke: moved, "stroke-width": 2.5 }),
  ];
  if (index === state.chosen || !boxes().length) {
    const [left, , width] = view();
    const isAtRight = from[0] + 50 * u > left + width;
    const text = { x: from[0] + (isAtRight ? -1 : 1) * (size + 8) * u, y: from[1] + 4 * u, "font-size": 12 * u,
      "stroke-width": 3.5 * u, "text-anchor": isAtRight ? "end" : "start" };
    marks.push(element("text", text, distance.toFixed(1)));
  }
  return marks;
}

function drawPoint([cx, cy], score, k, index, size, u, colours) {
  const isSure = score >= state.info.score_thresholds[1];
  const colour = state.info.right.includes(k) ? colours.right : colours.left;
  const look = isSure ? { fill: colour, stroke: "#222", "stroke-width": 1.2 } : { fill: "none", stroke: colour, "stroke-width": 2 };
  const group = element("g", { class: "point", role: "img", "aria-label": describePoint(index, k, score) });
  if (index === state.chosen || !boxes().length) group.setAttribute("tabindex", 0);
  Object.assign(group.dataset, { key: `point-${index}-${k}`, car: index, k });
  if (!isSure) group.append(element("circle", { class: "ring", cx, cy, r: size * u, stroke: "#222", "stroke-width": 4 }));
  group.append(
    element("circle", { class: "dot", cx, cy, r: size * u, ...look }),
    element("circle", { class: "halo", cx, cy, r: (size + 3) * u }),
    element("circle", { cx, cy, r: Math.max(size, 8) * u, fill: "transparent" }),
  );
  return group;
}

function lineColour(a, b) {
  const { right, colours } = state.info;
  if (right.includes(a) !== right.includes(b)) return colours.middle;
  return right.includes(a) ? colours.right : colours.left;
}

function keypointName(k) {
  return state.info.keypoints[k].replaceAll("_", " ");
}

function describePoint(index, k, score) {
  const moved = state.result.moved_px?.[index][k];
  return `${keypointName(k)}, confidence ${score.toFixed(2)}${moved === undefined ? "" : `, moved ${moved.toFixed(1)} px`}`;
}

/** Whether the models place a keypoint, which at least one of them sees, farther apart than the page allows. */
function isMoved(index, k) {
  const moved = state.result?.moved_px?.[index]?.[k];
  if (moved === undefined) return false;
  const isSeen = state.result.cars.some((cars) => cars[index].scores[k] >= state.info.score_thresholds[0]);
  return isSeen && moved > Number($("threshold").value);
}

// ---- names and confidences

function pointMeant(event) {
  const point = event.target.closest(".point");
  if (!point || state.drag) return;
  if (event.type === "focusin" && !point.matches(":focus-visible")) return;
  const [index, k] = [Number(point.dataset.car), Number(point.dataset.k)];
  const [x, y] = state.result.cars[Number(event.currentTarget.dataset.model)][index].points[k];
  $("tip").textContent = `${point.getAttribute("aria-label").replaceAll(", ", "\n")}\nx ${x.toFixed(1)}, y ${y.toFixed(1)}`;
  $("tip").hidden = false;
  const seen = point.getBoundingClientRect();
  const own = $("tip").getBoundingClientRect();
  const left = seen.right + 8 + own.width < window.innerWidth ? seen.right + 8 : seen.left - 8 - own.width;
  $("tip").style.left = `${clamp(left, 4, window.innerWidth - own.width - 4)}px`;
  $("tip").style.top = `${clamp(seen.top + seen.height / 2 - own.height / 2, 4, window.innerHeight - own.height - 4)}px`;
  light(index, k);
}

function hideTip() {
  $("tip").hidden = true;
  for (const lit of document.querySelectorAll(".lit")) lit.classList.remove("lit");
}

function light(index, k) {
  for (const point of document.querySelectorAll(`.point[data-car="${index}"][data-k="${k}"]`)) point.classList.add("lit");
  if (index === state.chosen) $("table").querySelector(`[data-row="${k}"]`)?.classList.add("lit");
}

// ---- list of cars, table

function drawCars() {
  const all = boxes();
  if (!all.length) {
    const [W, H] = pictureSize();
    $("cars").replaceChildren(html("p", { textContent: `The whole picture, ${W} × ${H} pixels, is one car.` }));
    return;
  }
  $("cars").replaceChildren(...all.map((box, index) => {
    const name = html("button", { type: "button", dataset: { key: `car-${index}` } }, `Car ${index + 1}`);
    name.setAttribute("aria-pressed", index === state.chosen);
    const count = countMoved(index);
    if (count !== null) name.append(html("small", { textContent: count ? `${count} moved` : "none moved" }));
    name.addEventListener("click", () => choose(index));
    const gone = html("button", { type: "button", textContent: "Delete", dataset: { key: `delete-${index}` } });
    gone.setAttribute("aria-label", `Delete car ${index + 1}`);
    gone.addEventListener("click", () => deleteBox(index));
    const numbers = html("div", { className: "numbers" }, ...["x", "y", "w", "h"].map((label, side) => number(box, index, label, side)));
    return html("div", { className: `carrow${index === state.chosen ? " chosen" : ""}` }, name, gone, numbers);
  }), html("p", { className: "muted", textContent: "x, y, width and height in pixels of the picture." }));
}

function number(box, index, label, side) {
  const input = html("input", { type: "number", value: box[side], step: "any", dataset: { key: `number-${index}-${side}` } });
  input.addEventListener("change", () => {
    const changed = [...box];
    changed[side] = Number(input.value);
    const [x, y, width, height] = changed;
    changeBox(index, boxBetween([x, y], [x + Math.max(width, MIN_BOX_PX), y + Math.max(height, MIN_BOX_PX)]), 0);
  });
  return html("label", {}, label, input);
}

function countMoved(index) {
  const moved = state.result?.moved_px?.[index];
  return moved && !state.isStale ? moved.filter((_, k) => isMoved(index, k)).length : null;
}

function drawTable() {
  const { result, chosen, info } = state;
  const cars = (result?.cars || []).map((of) => of[chosen]);
  $("table").replaceChildren();
  $("summary").textContent = "";
  if (!cars.length || cars.some((car) => !car)) return;
  const count = countMoved(chosen);
  const which = boxes().length ? `Car ${chosen + 1}` : "Whole picture";
  const moved = count === null ? "" : `: ${count || "none"} of ${info.keypoints.length} keypoints moved by more than ${Number($("threshold").value)} px`;
  $("summary").textContent = `${which}${moved}.`;
  $("table").append(tableHead(cars.length), html("tbody", {}, ...info.keypoints.map((_, k) => tableRow(k, cars))));
}

function tableHead(numModels) {
  const head = (name, unit) => html("th", { scope: "col", className: "number" }, name, html("small", { textContent: unit }));
  const row = html("tr", {}, html("th", { textContent: "Keypoint", scope: "col" }));
  row.append(...state.info.models.slice(0, numModels).map(({ label }) => head(label, "x, y; confidence")));
  if (numModels > 1) row.append(head("moved", "px"));
  return html("thead", {}, row);
}

function tableRow(k, cars) {
  const { colours, right, score_thresholds: [least] } = state.info;
  const swatch = html("span", { className: "swatch" });
  swatch.style.background = right.includes(k) ? colours.right : colours.left;
  const row = html("tr", { dataset: { row: k } }, html("th", { scope: "row" }, swatch, keypointName(k)));
  for (const car of cars) {
    const fill = html("i");
    fill.style.width = `${100 * clamp(car.scores[k], 0, 1)}%`;
    const at = html("span", { className: "at", textContent: car.points[k].map((value) => value.toFixed(1)).join(", ") });
    const confidence = html("span", { className: "confidence" }, html("span", { className: "meter" }, fill), car.scores[k].toFixed(2));
    row.append(html("td", { className: "number" }, at, " ", confidence));
  }
  const moved = state.result.moved_px?.[state.chosen]?.[k];
  if (moved !== undefined) row.append(html("td", { className: "number shift", textContent: moved.toFixed(1) }));
  row.classList.toggle("absent", cars.every((car) => car.scores[k] < least));
  row.classList.toggle("moved", isMoved(state.chosen, k));
  row.addEventListener("mouseenter", () => { light(state.chosen, k); row.classList.add("lit"); });
  row.addEventListener("mouseleave", hideTip);
  return row;
}

function drawLegend() {
  const { colours, models, score_thresholds: [least, sure] } = state.info;
  const dot = (attributes) => element("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" },
    element("circle", { cx: 8, cy: 8, r: 5, stroke: "currentColor", ...attributes }));
  const entries = [
    [dot({ fill: colours.right, "stroke-width": 1 }), "the car's right side"],
    [dot({ fill: colours.left, "stroke-width": 1 }), "its left side"],
    [dot({ fill: "none", "stroke-width": 2 }), `unsure: confidence under ${sure}; not drawn under ${least}`],
  ];
  if (models.length > 1) entries.push([dot({ fill: "none", stroke: colours.moved, "stroke-width": 2.5, r: 6 }),
    `moved, with the distance in pixels of the picture, from ${models[0].label} to ${models[1].label}`]);
  $("legend").replaceChildren(...entries.map(([mark, text]) => html("li", {}, mark, text)));
}

// ---- saving

function stem() {
  return state.result.image.replace(/\.[^.#]*(?=$|#)/, "").replace("#", "_");
}

/** As `carkp infer` writes it: a line a picture. */
function resultText({ images, errors, notes, ...head }) {
  const fields = Object.entries(head).map(([name, value]) => `${JSON.stringify(name)}: ${JSON.stringify(value)}`);
  for (const [name, content] of Object.entries({ images, errors, notes })) {
    const lines = Object.entries(content).map(([key, value]) => `${JSON.stringify(key)}: ${JSON.stringify(value)}`);
    fields.push(`"${name}": {\n${lines.join(",\n")}\n}`);
  }
  return `{\n${fields.join(",\n")}\n}\n`;
}

const cell = (value) => (/[",\n\r]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : value);
const csv = (rows) => rows.map((row) => row.map(cell).join(",")).join("\n") + "\n";

function keypointsCsv() {
  const { result, info } = state;
  const head = ["image", "car", "box_x", "box_y", "box_w", "box_h", "model", "model_kind", "keypoint", "x", "y", "score", "moved_px"];
  const rows = result.results.flatMap(({ document: { model, model_kind: kind } }, index) =>
    result.cars[index].flatMap((car, number) => info.keypoints.map((name, k) => [result.image, number + 1, ...car.box, model,
      kind, name, ...car.points[k], car.scores[k], index ? result.moved_px[number][k] : ""])));
  return csv([head, ...rows]);
}

function boxesCsv() {
  const name = state.source.kind === "video" ? `${state.source.name}#${String(state.frame).padStart(6, "0")}` : state.source.name;
  return csv([["image", "x", "y", "w", "h"], ...boxes().map((box) => [name, ...box])]);
}

function save(text, name, type) {
  const link = html("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function buildSaves() {
  const button = (name, label, write) => {
    const made = html("button", { type: "button", textContent: label, dataset: { save: name } });
    made.addEventListener("click", write);
    return made;
  };
  const documents = state.info.models.map(({ label }, index) => button(`json-${index}`, `JSON of ${label}`, () =>
    save(resultText(state.result.results[index].document), `${stem()}.${label.replace(" ", "-")}.json`, "application/json")));
  $("saves").replaceChildren(...documents,
    button("csv", "Keypoints as CSV", () => save(keypointsCsv(), `${stem()}.csv`, "text/csv")),
    button("boxes", "Boxes as CSV", () => save(boxesCsv(), "boxes.csv", "text/csv")));
}

// ---- start

function buildShown() {
  const { models } = state.info;
  $("shown").hidden = $("limit").hidden = models.length < 2;
  if (models.length < 2) return;
  for (const [value, text] of [["both", "Side by side"], ...models.map(({ label }, index) => [index, label])]) {
    const input = html("input", { type: "radio", name: "shown", className: "hidden-input", checked: value === state.shown, value });
    input.addEventListener("change", () => { state.shown = value; if (state.source) buildStages(); });
    $("shown").append(html("label", {}, input, text));
  }
}

function listen() {
  for (const input of document.querySelectorAll("[data-opens]")) {
    input.addEventListener("change", () => { openFile(input.files[0]); input.value = ""; });
  }
  $("boxfile").addEventListener("change", () => { openBoxes($("boxfile").files[0]); $("boxfile").value = ""; });
  $("add").addEventListener("click", addBox);
  $("zoom").addEventListener("click", zoom);
  $("threshold").addEventListener("input", draw);
  $("upright").addEventListener("change", () => openFile(state.source.file));
  $("dismiss").addEventListener("click", () => showError(""));
  let moment = 0;
  $("frame").addEventListener("input", () => {
    clearTimeout(moment);
    moment = setTimeout(() => guarded(() => showFrame(Number($("frame").value))), 120);
  });
  document.addEventListener("keydown", keyPressed);
  listenToDrops();
}

function zoom() {
  if (!boxes().length) return;
  state.isZoomed = !state.isZoomed;
  draw();
}

function keyPressed(event) {
  if (event.key === "Escape") return hideTip();
  const isTyping = event.target.matches("input, textarea, select");
  if (!state.source || isTyping || event.ctrlKey || event.metaKey || event.altKey) return undefined;
  const action = { n: addBox, z: zoom }[event.key.toLowerCase()];
  if (action) event.preventDefault();
  return action?.();
}

function listenToDrops() {
  let depth = 0;
  const veil = (change) => {
    depth = Math.max(depth + change, 0);
    $("veil").hidden = depth === 0;
  };
  document.addEventListener("dragenter", (event) => { event.preventDefault(); veil(1); });
  document.addEventListener("dragleave", () => veil(-1));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    veil(-Infinity);
    taken(event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (event) => taken(event.clipboardData.files[0]));
}

function taken(file) {
  if (!file) return;
  if (state.source && BOX_FILE.test(file.name)) openBoxes(file);
  else openFile(file);
}

guarded(async () => {
  state.info = await (await ask("api/state")).json();
  const { models, colours } = state.info;
  document.documentElement.style.setProperty("--moved", colours.moved);
  showHeader(models.map(({ label, name }) => `${label}: ${name}`).join(" · "));
  buildShown();
  buildSaves();
  drawLegend();
  listen();
});
