// Turns values into elements, without any computation.
import { BACKENDS } from "./tower.js";

const SHOWN = 20;
// Column heads of the self-test's table, which a phone shows as a list for each row.
const TEST_COLUMNS = [...document.querySelectorAll("#test-results th")].map((head) => head.textContent);
const $ = (id) => document.getElementById(id);

/** Create an element; strings become text, never markup. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key in made) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

export function say(text, { problem = false, fraction = null } = {}) {
  $("status").hidden = text === null;
  $("status").classList.toggle("problem", problem);
  $("status-text").textContent = text ?? "";
  $("progress").hidden = fraction === null;
  $("progress").value = fraction ?? 0;
}

export function note(id, text) {
  $(id).hidden = text === null;
  $(id).textContent = text ?? "";
}

export function showBadges(host, opened) {
  const gpu = opened.backend === "webgpu";
  const threads = host.threads === 1 ? "1 thread" : `${host.threads} threads`;
  const rows = [
    [BACKENDS[opened.backend], true],
    [opened.precision, true],
    [gpu ? host.gpu : threads, true],
    ["SIMD", host.simd],
    [host.isolated ? "isolated" : "not isolated", host.isolated],
    [host.gpu ? "WebGPU available" : "no WebGPU", host.gpu !== null],
  ];
  $("badges").replaceChildren(
    ...rows.map(([text, on]) => element("span", { className: on ? "" : "off" }, text)),
  );
}

export function showFacts(found, opened) {
  const { manifest, host } = found;
  const { image, text, token_embedding: tokens } = manifest.parameters;
  const code = (value) => element("code", {}, value);
  const rows = [
    ["Name", manifest.name],
    ["Made from", manifest.source.model ?? "unknown"],
    ["Precision", opened.precision],
    ["Files", `${megabytes(opened.bytes)}, ${host.hashed ? "SHA-256 checked" : "not checked (no https)"}`],
    ["Model hash", code(`${manifest.model_hash.slice(0, 16)}…`)],
    ["Parameters", `${millions(image)} image, ${millions(text)} text, ${millions(tokens)} tokens`],
    ["Input", `${manifest.image_size} × ${manifest.image_size} pixels, ${manifest.context_length} tokens`],
    ["Embedding", `${manifest.embedding_dim} dimensions`],
    ["Verified at export", verified(manifest, opened.precision)],
    ["Written by", manifest.created_by],
  ];
  $("facts").replaceChildren(
    ...rows.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))),
  );
}

function verified(manifest, precision) {
  const figures = manifest.verification.precisions?.[precision];
  const recall = figures?.ranking?.["recall@1"];
  if (recall === undefined) return "not recorded";
  return `recall@1 ${recall.toFixed(1)} % on ${Number(manifest.verification.pairs).toLocaleString("en")} pairs, image cosine ≥ ${figures.image.cosine_min.toFixed(4)}`;
}

const UNKNOWN = "This picture is unlike those that the model was trained on: do not rely on its labels.";

export function showAnswer({ rows, familiar, unknown, ms, size }, labelled, live) {
  note("unknown", familiar === false ? UNKNOWN : null);
  $("verdict").hidden = false;
  const best = `${rows[0].label}, ${percent(rows[0].chance)}`;
  $("verdict").replaceChildren(
    ...(unknown ? [element("b", {}, "None of these"), `. The nearest: ${best}`] : [
      element("b", {}, rows[0].label),
      `, ${percent(rows[0].chance)}`,
    ]),
  );
  const shown = rows.slice(0, SHOWN).map(({ label, chance }) =>
    element(
      "li",
      {},
      element("span", {}, label),
      bar(chance),
      element("span", {}, percent(chance)),
    ),
  );
  if (rows.length > SHOWN) shown.push(element("li", { className: "more" }, `and ${rows.length - SHOWN} more`));
  $("bars").replaceChildren(...shown);
  const total = ms.preprocess + ms.encode + ms.compare;
  const times = [
    ["Preprocessing", ms.preprocess],
    ["Encode", ms.encode],
    ["Compare", ms.compare],
    ["Frame", total],
  ].map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, milliseconds(value))));
  const speed = live ? `${(1000 / live).toFixed(1)} frames per second. ` : "";
  const about = `${speed}Picture of ${size[0]} × ${size[1]}. ${labelled.texts} texts encoded once in ${milliseconds(labelled.ms)}.`;
  $("times").replaceChildren(...times, element("div", { className: "wide" }, about));
  $("times").hidden = false;
}

function bar(chance) {
  const fill = element("i");
  fill.style.width = `${100 * chance}%`;
  fill.dataset.chance = chance;
  return element("span", { className: "bar", ariaHidden: "true" }, fill);
}

export function hideAnswer() {
  $("verdict").hidden = true;
  $("unknown").hidden = true;
  $("times").hidden = true;
  $("bars").replaceChildren();
}

export function showTestRow(row) {
  $("test-results").hidden = false;
  const passed = row.failures.length === 0;
  const yes = (value) => (value == null ? "not compared" : value ? "equal" : "different");
  const head = [
    element("td", {}, BACKENDS[row.backend]),
    element("td", {}, row.pixels === "model" ? `${row.precision}, resized inside` : row.precision),
    element("td", { className: passed ? "pass" : "fail" }, passed ? "✓ pass" : "✗ fail"),
  ];
  const number = (text) => element("td", { className: "number" }, text);
  const figures =
    row.image === undefined
      ? [element("td", { className: "why", colSpan: 7 }, row.failures[0])]
      : [
          number(row.image.toFixed(6)), number(row.text.toFixed(6)), number(String(row.least)),
          element("td", {}, yes(row.sameIds)), element("td", {}, yes(row.samePixels)),
          number(row.imageMs.toFixed(2)), number(row.textMs.toFixed(2)),
        ];
  const cells = [...head, ...figures];
  cells.forEach((cell, i) => {
    cell.setAttribute("role", "cell");
    cell.dataset.label = row.image === undefined && i > 2 ? "Reason" : TEST_COLUMNS[i];
  });
  $("test-rows").append(element("tr", { role: "row" }, ...cells));
}

export function showTestVerdict(rows) {
  const failed = rows.filter((row) => row.failures.length);
  const names = failed.map((row) => `${row.precision} on ${BACKENDS[row.backend]} (${row.failures.join(", ")})`);
  $("test-verdict").hidden = false;
  $("test-verdict").className = `verdict ${failed.length ? "bad" : "good"}`;
  $("test-verdict").textContent = failed.length
    ? `Do not trust ${names.join("; ")}`
    : `All ${rows.length} combinations give the same results as the machine that exported the bundle.`;
}

export function options(select, entries, chosen) {
  select.replaceChildren(...entries.map(([value, text]) => new Option(text, value, false, value === chosen)));
}

const percent = (chance) => (chance < 0.0005 ? "<0.1 %" : `${(100 * chance).toFixed(1)} %`);
const millions = (count) => `${(count / 1e6).toFixed(2)} M`;
export const megabytes = (bytes) => (bytes < 1e6 ? `${(bytes / 1e3).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(1)} MB`);
const milliseconds = (ms) => `${ms < 10 ? ms.toFixed(2) : ms.toFixed(1)} ms`;
