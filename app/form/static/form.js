// The form asks the service as any other client does, and shows what it answers. Everything is inserted as text.
"use strict";

const MOST_SECONDS = 30; // that one request may take
const MOST_POINTS = 101; // of a curve
const LEAST_POINTS = 11;
const MOST_CHOICES = 24; // of a category, each with a bar
const MOST_CLASSES = 12; // with a bar
const MOST_CURVES = 6; // in one plot
const COLOURS = 7; // in form.css
const DASHES = ["", "7 3", "2 2.5", "9 3 2 3", "12 4", "4 4", "1 3"];
const WIDTH = 320, HEIGHT = 152, LEFT = 40, RIGHT = 312, TOP = 20, BOTTOM = 132;
const KEY = "X-API-Key";

const main = document.querySelector("main");
const facts = JSON.parse(main.dataset.facts);
const { target, columns } = facts;
const byId = (id) => document.getElementById(id);
let model = null; // what /model-info said last
let busy = false;
let again = false;

class Refused extends Error {
  constructor(status, detail) {
    super(typeof detail === "string" ? detail : say("unexpected", { status }));
    this.status = status;
    this.errors = Array.isArray(detail) ? detail : [];
  }
}

function say(name, values = {}) {
  return facts.words[name].replace(/\{(\w+)\}/g, (_, key) => values[key]);
}

/** A share as a percentage, which reads 0 or 100 only where it is that. */
function percent(share) {
  let text = (100 * share).toFixed(1);
  for (let digits = 2; digits < 7 && share > 0 && share < 1 && Number(text) % 100 === 0; digits++) {
    text = (100 * share).toFixed(digits);
  }
  return `${text}\u00a0%`;
}

/** An element of HTML, or of SVG, with attributes and children; texts are children, too. */
function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "line", "rect", "path", "polyline", "circle", "text"].includes(tag);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

// ------------------------------------------------------------------ asking

async function ask(path, body) {
  const key = byId("key").hidden ? sessionStorage.getItem(KEY) : byId("key-value").value.trim();
  let response;
  try {
    response = await fetch(path, {
      method: body ? "POST" : "GET",
      headers: { ...(body && { "Content-Type": "application/json" }), ...(key && { [KEY]: key }) },
      body: body && JSON.stringify(body),
      signal: AbortSignal.timeout(1000 * MOST_SECONDS),
    });
  } catch (error) {
    throw new Error(error.name === "TimeoutError" ? say("slow", { seconds: MOST_SECONDS }) : say("unreachable"));
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refused(response.status, answer.detail);
  if (key) sessionStorage.setItem(KEY, key);
  byId("key").hidden = true;
  return answer;
}

/** The model that answered, as far as the service says so. */
async function learn(version) {
  if (!model || (version && model.version !== version)) model = await ask("model-info");
  const rows = [[say("version"), make("code", {}, version ?? model.version)]];
  if (!version || model.version === version) {
    const { metrics, accuracy, rows: of } = model;
    const headline = metrics.headline ?? { method: "held-out", accuracy, rows: of.test };
    const share = say("rows", { accuracy: percent(headline.accuracy), rows: headline.rows });
    rows.push([say(`accuracy_${headline.method}`), share]);
  }
  byId("model").replaceChildren(...rows.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
}

// ------------------------------------------------------------------ the fields

const fields = new Map([...main.querySelectorAll("[data-column]")].map((field) => [field.dataset.column, field]));

function valueOf(column) {
  const field = fields.get(column.name);
  if (column.kind === "radios") {
    const chosen = field.querySelector("input:checked");
    return !chosen || "missing" in chosen.dataset ? null : chosen.value;
  }
  if (column.kind === "list") {
    const [chosen] = field.querySelector("select").selectedOptions;
    return "missing" in chosen.dataset ? null : chosen.value;
  }
  if (field.querySelector("[data-missing]:checked")) return null;
  return numberOf(field.querySelector("input").value);
}

/**
 * The number that a text means, null for none. A comma is a decimal one, unless it may separate thousands: 4,500.
 * What is no number stays a text, for the service to refuse in its own words.
 */
function numberOf(text) {
  const trimmed = text.trim();
  if (!trimmed) return null;
  const plain = trimmed.replace(/^\u2212/, "-");
  const pointed = /^[+-]?\d*,\d+$/.test(plain) && !/^[+-]?[1-9]\d*,\d{3}$/.test(plain) ? plain.replace(",", ".") : plain;
  const number = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(pointed) ? Number(pointed) : NaN;
  return Number.isFinite(number) ? number : trimmed;
}

const controlOf = (field) => field.querySelector("input:not([data-missing]), select");

function clearErrors() {
  byId("problem").textContent = "";
  for (const field of fields.values()) {
    field.querySelector(".error").textContent = "";
    for (const marked of [field, controlOf(field)]) marked.removeAttribute("aria-invalid");
  }
}

/** Show an error where it belongs, and take the keyboard there. */
function show(error, focus = true) {
  const whole = error.errors?.length ? [] : [error.message];
  let first = null;
  for (const { loc, msg } of error.errors ?? []) {
    const field = fields.get(loc[1]);
    if (!field) {
      whole.push(msg);
      continue;
    }
    field.querySelector(".error").append(msg);
    const control = controlOf(field);
    (field.getAttribute("role") === "radiogroup" ? field : control).setAttribute("aria-invalid", "true");
    if (!first || control.compareDocumentPosition(first) & Node.DOCUMENT_POSITION_FOLLOWING) first = control;
  }
  byId("problem").lang = error instanceof Refused ? "en" : document.documentElement.lang;
  byId("problem").textContent = whole.join("\n");
  if (error.status === 401) {
    sessionStorage.removeItem(KEY);
    byId("key").hidden = false;
    first = byId("key-value");
  }
  if (focus) (first ?? byId("problem")).focus();
}

// ------------------------------------------------------------------ the answer

const classIndex = (label) => target.values.indexOf(label);
const colourOf = (label) => classIndex(label) % COLOURS;
const dashesOf = (label) => DASHES[classIndex(label) % DASHES.length];

function stroke(label, chosen) {
  return { class: `line s${colourOf(label)}${chosen ? " chosen" : ""}`, "stroke-dasharray": dashesOf(label) || null };
}

/** A bar as wide as its element, filled by classes one after the other. */
function track(shares) {
  const bar = make("svg", { class: "track", "aria-hidden": "true" }, make("rect", { class: "all", width: "100%", height: "100%", rx: 2 }));
  let from = 0;
  for (const [label, share] of shares) {
    bar.append(make("rect", { class: `f${colourOf(label)}${shares.length > 1 ? " part" : ""}`, x: `${100 * from}%`, width: `${100 * share}%`, height: "100%" }));
    from += share;
  }
  return bar;
}

function showAnswer(answer) {
  const chosen = answer[target.name];
  const shares = target.values.filter((v) => Object.hasOwn(answer.probabilities, v)).map((v) => [v, answer.probabilities[v]]);
  byId("label").replaceChildren(chosen, " ", make("span", { class: "share" }, percent(answer.probabilities[chosen])));
  const likeliest = [...shares].sort((a, b) => b[1] - a[1]).slice(0, MOST_CLASSES);
  const shown = shares.filter((one) => likeliest.includes(one));
  const bars = shown.map(([label, share]) =>
    make("li", { class: label === chosen ? "chosen" : null },
      make("svg", { class: "swatch", viewBox: "0 0 28 16", "aria-hidden": "true" }, make("line", { ...stroke(label, true), x1: 1, x2: 27, y1: 8, y2: 8 })),
      make("span", {}, label), track([[label, share]]), make("span", { class: "share" }, percent(share))));
  if (shown.length < shares.length) {
    const rest = shares.reduce((sum, [, share]) => sum + share, 0) - shown.reduce((sum, [, share]) => sum + share, 0);
    bars.push(make("li", { class: "soft" }, make("span"), make("span", {}, say("others", { number: shares.length - shown.length })),
      make("span"), make("span", { class: "share" }, percent(Math.max(rest, 0)))));
  }
  byId("bars").replaceChildren(...bars);
  byId("stale").hidden = true;
}

// ------------------------------------------------------------------ if one value were another

/** The values of a number's curve: evenly over its range and not longer than they need be, the present one among them. */
function pointsOf(column, present, count) {
  const low = Number(column.minimum), high = Number(column.maximum), step = (high - low) / (count - 1);
  const digits = Math.min(Math.max(Math.ceil(-Math.log10(step)), 0), 100);
  const inside = Array.from({ length: count - 2 }, (_, i) => Number((low + (i + 1) * step).toFixed(digits)));
  const points = [low, ...inside.filter((v) => v > low && v < high), high, ...(present === null ? [] : [present])];
  return [...new Set(points)].sort((a, b) => a - b);
}

/** What to ask, by column, all of it in one batch. A batch takes so many records, values and bytes: later columns are left out. */
function questions(record) {
  const bytes = new TextEncoder().encode(JSON.stringify(record)).length + 100;
  const byValues = Math.floor((facts.most_values - 10) / (columns.length + 1));
  let left = Math.min(facts.most_records, byValues, Math.floor((facts.most_bytes - 100) / bytes));
  const choices = (column) => [...column.values.slice(0, MOST_CHOICES), ...(column.required ? [] : [null])];
  const numbers = columns.filter((c) => c.kind === "number").length;
  const others = columns.filter((c) => c.kind !== "number").reduce((sum, c) => sum + choices(c).length + 1, 0);
  const count = Math.min(Math.max(Math.floor((left - others) / numbers) - 1, LEAST_POINTS), MOST_POINTS);
  const asked = [];
  for (const column of columns) {
    const present = record[column.name];
    const values = column.kind === "number" ? pointsOf(column, present, count) : [...new Set([...choices(column), present])];
    if (values.length > left) break;
    left -= values.length;
    asked.push({ column, present, values });
  }
  return asked;
}

async function showCurves(record, answer) {
  const asked = questions(record);
  const records = asked.flatMap(({ column, values }) => values.map((value) => ({ ...record, [column.name]: value })));
  if (!records.length) return;
  // Nobody measured these: they must not count as rows that the model has seen.
  const { predictions, model_version: version } = await ask("predict/batch?counted=false", { records });
  const cells = asked.map(({ column, present, values }) => {
    const answers = predictions.splice(0, values.length).map((p, i) => ({ value: values[i], label: p[target.name], shares: p.probabilities }));
    const heading = make("h3", {}, column.heading, column.unit ? make("span", { class: "soft" }, ` ${column.unit}`) : "");
    const parts = column.kind === "number" ? curve(column, present, answers, answer) : choiceBars(column, present, answers);
    return make("div", { class: "cell curve", "data-of": column.name }, heading, ...parts);
  });
  const notes = [];
  if (asked.length < columns.length) notes.push(say("columns_left_out", { name: asked.at(-1).column.heading }));
  if (version !== answer.model_version) notes.push(say("another_version", { version }));
  byId("what-if-note").textContent = notes.join(" ");
  byId("curves").replaceChildren(...cells);
  byId("what-if").hidden = false;
}

function curve(column, present, answers, answer) {
  const chosen = answer[target.name];
  const low = Number(column.minimum), high = Number(column.maximum);
  const x = (value) => LEFT + ((value - low) / (high - low)) * (RIGHT - LEFT);
  const y = (share) => BOTTOM - share * (BOTTOM - TOP);
  const path = (label) => answers.map((a) => `${x(a.value).toFixed(1)},${y(a.shares[label]).toFixed(1)}`).join(" ");
  const likely = (label) => Math.max(...answers.map((a) => a.shares[label]));
  const drawn = Object.keys(answer.probabilities).filter((l) => l !== chosen && likely(l) > 0.01)
    .sort((a, b) => likely(b) - likely(a)).slice(0, MOST_CURVES - 1);

  const best = answers.reduce((a, b) => (b.shares[chosen] > a.shares[chosen] ? b : a));
  const worst = answers.reduce((a, b) => (b.shares[chosen] < a.shares[chosen] ? b : a));
  const measured = (value) => `${value}\u00a0${column.unit}`.trim();
  const alternative = `${column.heading}. ` + say("curve", {
    label: chosen, high: percent(best.shares[chosen]), high_at: measured(best.value), low: percent(worst.shares[chosen]), low_at: measured(worst.value),
  });
  const plot = make("svg", { class: "plot", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": alternative });
  for (const share of [0, 0.5, 1]) {
    plot.append(make("line", { class: "grid", x1: LEFT, x2: RIGHT, y1: y(share), y2: y(share) }));
    plot.append(make("text", { x: LEFT - 6, y: y(share) + 4, "text-anchor": "end" }, `${100 * share}${share === 1 ? "\u00a0%" : ""}`));
  }
  plot.append(make("text", { x: LEFT, y: HEIGHT - 4 }, column.minimum));
  plot.append(make("text", { x: RIGHT, y: HEIGHT - 4, "text-anchor": "end" }, column.maximum));
  plot.append(make("path", { class: `area f${colourOf(chosen)}`, d: `M${x(low)},${BOTTOM} L${path(chosen)} L${x(high)},${BOTTOM} Z` }));
  for (const label of drawn) plot.append(make("polyline", { ...stroke(label, false), points: path(label), "data-class": label }));
  plot.append(make("polyline", { ...stroke(chosen, true), points: path(chosen), "data-class": chosen }));
  if (present !== null) {
    const at = x(present), share = answer.probabilities[chosen];
    plot.append(make("line", { class: "here", x1: at, x2: at, y1: TOP - 4, y2: BOTTOM }));
    const end = at > RIGHT - 30 ? "end" : at < LEFT + 30 ? "start" : "middle";
    plot.append(make("text", { class: "value", x: at, y: TOP - 8, "text-anchor": end }, String(present)));
    plot.append(make("circle", { class: `dot f${colourOf(chosen)}`, cx: at, cy: y(share), r: 4.5 }));
  }
  const now = say("now", { value: present === null ? say("not_measured") : measured(present), label: chosen, share: percent(answer.probabilities[chosen]) });
  return [plot, make("p", {}, `${winners(answers)} `, make("span", { class: "soft" }, now))];
}

/** Which class is the answer from where to where, in words. */
function winners(answers) {
  const runs = [];
  for (const { value, label } of answers) {
    if (runs.at(-1)?.label === label) runs.at(-1).to = value;
    else runs.push({ label, from: value, to: value });
  }
  if (runs.length === 1) return say("always", runs[0]);
  if (runs.length > 5) return say("often", { times: runs.length - 1 });
  return runs.map((run, i) => say(i === 0 ? "up_to" : i === runs.length - 1 ? "onwards" : "between", run)).join(", ") + ".";
}

function choiceBars(column, present, answers) {
  const rows = answers.map(({ value, label, shares }) =>
    make("li", { class: value === present ? "chosen" : null },
      make("span", {}, value ?? say("not_measured"), ...(value === present ? [" ", make("span", { class: "tag" }, say("chosen"))] : [])),
      track(target.values.filter((v) => Object.hasOwn(shares, v)).map((v) => [v, shares[v]])),
      make("span", {}, `${label} ${percent(shares[label])}`)));
  const all = column.values.length + (column.required ? 0 : 1);
  const list = make("ul", { class: "choices-bars" }, ...rows);
  return [list, make("p", { class: "note" }, rows.length < all ? say("shown", { shown: rows.length, all }) : "")];
}

// ------------------------------------------------------------------ what happens

async function predict() {
  clearErrors();
  const record = Object.fromEntries(columns.map((column) => [column.name, valueOf(column)]));
  try {
    const answer = await ask("predict", record);
    showAnswer(answer);
    await Promise.all([learn(answer.model_version), showCurves(record, answer)]);
    byId("answer").scrollIntoView({ block: "nearest" });
  } catch (error) {
    show(error);
  }
}

main.addEventListener("submit", async (event) => {
  event.preventDefault();
  again = true; // also what is pressed while the last answer is still being shown
  if (busy) return;
  busy = true;
  byId("answer").setAttribute("aria-busy", "true");
  try {
    while (again) {
      again = false;
      await predict();
    }
  } finally {
    busy = false;
    byId("answer").removeAttribute("aria-busy");
  }
});

main.addEventListener("input", (event) => {
  const field = event.target.closest("[data-column]");
  if (!field) return;
  if (event.target.matches("[type=checkbox][data-missing]")) controlOf(field).disabled = event.target.checked;
  byId("stale").hidden = byId("bars").childElementCount === 0;
});

// A browser that goes back shows what was filled in before, the checkboxes among it.
for (const box of main.querySelectorAll("[type=checkbox][data-missing]")) controlOf(box.closest("[data-column]")).disabled = box.checked;
// A service without a model, or with a lock, says so before anything is filled in.
learn().catch((error) => show(error, false));
