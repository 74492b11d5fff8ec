// Connects user input, the engine and the page.
import { readAddress } from "./address.js";
import { Camera } from "./camera.js";
import { download } from "./download.js";
import { Closed, Engine } from "./engine.js";
import { PageError, line } from "./errors.js";
import { FIRST_LABELS, PRESETS, parseLabels, parseTemplates } from "./labels.js";
import { listen } from "./pictures.js";
import { BACKENDS } from "./tower.js";
import {
  element, hideAnswer, megabytes, note, options, say, showAnswer, showBadges, showFacts, showTestRow, showTestVerdict,
} from "./view.js";

const SAMPLES = ["cat face", "bicycle", "hamburger", "umbrella", "rocket", "cactus"];
const TYPING_MS = 250;
const $ = (id) => document.getElementById(id);
const page = {
  engine: null,
  bundle: null, // {address} or {files}
  found: null, // properties of the manifest and the browser
  opened: null, // the running model
  labelled: null, // the encoded labels
  turn: 0, // counts changes of labels, precision or bundle, to recognise outdated results
  picture: null, // {blob, name}
  hint: null, // warning to show once the model runs
  frameMs: null, // smoothed time between live frames
};
const camera = new Camera($("camera"), onFrame);

/** Open the page's bundle in a new worker, then classify the picture on the page. */
async function start(wanted = {}) {
  page.engine?.close();
  page.found = null;
  forgetModel();
  const files = new Map();
  page.engine = new Engine({
    progress: ({ name, bytes, of }) => {
      if (page.opened) return; // the self-test reports its own progress
      files.set(name, [bytes, of]);
      showProgress([...files.values()]);
    },
    testing: ({ precision, backend }) => say(`Measuring ${precision} on ${BACKENDS[backend]}…`),
    tested: ({ row }) => showTestRow(row),
  });
  say("Opening the bundle…");
  const ort = String(new URL("ort/", location.href));
  page.found = await page.engine.call("look", { bundle: page.bundle, ort, threads: wanted.threads });
  fillChoices(wanted);
  await open();
}

async function open() {
  const { found, engine } = page;
  forgetModel();
  say(`Loading ${found.manifest.name}…`, { fraction: 0 });
  try {
    page.opened = await engine.call("open", {
      precision: $("precision").value,
      backend: $("backend").value,
      pixels: $("pixels").value,
    });
  } finally {
    if (engine === page.engine) setBusy(false);
  }
  const { opened } = page;
  note("warning", opened.refused ? refusal(opened) : page.hint);
  page.hint = null;
  $("backend").value = opened.backend;
  showBadges(found.host, opened);
  showFacts(found, opened);
  say(null);
  await relabel();
}

/** Until `open` ends there is no model, and results under way belong to the previous one. */
function forgetModel() {
  page.opened = page.labelled = null;
  page.turn++;
  setBusy(true);
}

function refusal({ precision, refused }) {
  return `WebGPU gives wrong results for this bundle in ${precision}: ${refused}. Using WASM instead.`;
}

function setBusy(busy) {
  for (const id of ["precision", "backend", "threads", "pixels", "test", "record"]) $(id).disabled = busy;
  if (!page.found?.golden.length) $("test").disabled = $("record").disabled = true;
  if (!page.found?.host.isolated) $("threads").disabled = true;
}

function showProgress(files) {
  const [bytes, of] = [0, 1].map((i) => files.reduce((sum, file) => sum + file[i], 0));
  say(`Loading ${page.found.manifest.name}: ${megabytes(bytes)} of ${megabytes(of)}`, { fraction: bytes / of });
}

function fillChoices(wanted) {
  const { manifest, host, precisions, whole } = page.found;
  const names = precisions.map(({ name }) => name);
  if (wanted.precision && !names.includes(wanted.precision)) {
    throw new PageError(`this bundle has no precision ${wanted.precision}; it has ${names.join(", ")}`);
  }
  page.hint =
    wanted.backend === "webgpu" && !host.gpu ? "This browser does not support WebGPU. Using WASM instead." : null;
  const sizes = precisions.map(({ name, bytes }) => [name, `${name}, ${megabytes(bytes)}`]);
  options($("precision"), sizes, wanted.precision ?? manifest.default_precision);
  const gpu = host.gpu ? [["webgpu", `WebGPU, ${host.gpu}`]] : [];
  options($("backend"), [["wasm", "WASM, CPU"], ...gpu], wanted.backend ?? "wasm");
  const most = host.isolated ? Math.max(host.cores, host.threads) : 1;
  const counts = Array.from({ length: Math.min(most, 16) }, (_, i) => [String(i + 1), String(i + 1)]);
  options($("threads"), counts, String(host.threads));
  $("pixels-field").hidden = !whole.length;
  $("pixels").value = whole.length ? (wanted.pixels ?? "page") : "page";
}

/** Encode the typed labels, then classify the current picture. */
async function relabel() {
  const { opened, engine } = page;
  if (!opened) return;
  const turn = ++page.turn;
  let labelled;
  try {
    if (opened.noTokenizer) throw new PageError(opened.noTokenizer);
    const typed = { labels: parseLabels($("labels").value), templates: parseTemplates($("templates").value) };
    labelled = await engine.call("setLabels", typed);
  } catch (error) {
    if (turn !== page.turn) return;
    page.labelled = null;
    hideAnswer();
    if (!(error instanceof PageError)) throw error;
    note("label-note", line(error));
    return;
  }
  if (turn !== page.turn) return;
  page.labelled = labelled;
  note("label-note", labelled.cut);
  await classify();
}

async function classify() {
  const { engine, labelled, picture } = page;
  if (!labelled || !picture || camera.running) return;
  const outdated = () => labelled !== page.labelled || picture !== page.picture || camera.running;
  try {
    const answer = await engine.call("classify", picture);
    if (outdated()) return;
    showAnswer(answer, labelled, null);
    note("picture-note", null);
  } catch (error) {
    if (outdated()) return;
    hideAnswer();
    if (!(error instanceof PageError)) throw error;
    note("picture-note", line(error));
  }
}

async function onFrame(bitmap) {
  const { engine, labelled } = page;
  if (!labelled) return bitmap.close();
  const started = performance.now();
  try {
    const answer = await engine.call("classify", { bitmap, name: "the camera's frame" }, [bitmap]);
    const ms = performance.now() - started;
    page.frameMs = page.frameMs === null ? ms : 0.9 * page.frameMs + 0.1 * ms;
    if (camera.running && labelled === page.labelled) showAnswer(answer, labelled, page.frameMs);
  } catch (error) {
    if (error instanceof Closed) return;
    stopCamera();
    note("picture-note", line(error));
  }
}

async function usePicture(blob, name = blob.name || "the pasted file") {
  stopCamera();
  if (/\.(onnx|json)$/i.test(name)) {
    hideAnswer();
    note("picture-note", `${name} is part of a bundle: drop or open the whole folder`);
    return;
  }
  page.picture = { blob, name };
  URL.revokeObjectURL($("picture").src);
  $("picture").src = URL.createObjectURL(blob);
  $("picture").alt = name;
  show("picture");
  await classify();
}

/** Show one of "picture", "camera" in the frame. */
function show(id) {
  $("picture").hidden = id !== "picture";
  $("camera").hidden = id !== "camera";
  $("drop-hint").hidden = true;
  $("drop").classList.add("filled");
}

async function toggleCamera() {
  if (camera.running) {
    stopCamera();
    await classify();
    return;
  }
  try {
    page.frameMs = null;
    // A screen reader would never finish reading a stream of results.
    $("verdict").setAttribute("aria-live", "off");
    await camera.start();
    note("picture-note", null);
    show("camera");
    setLive(true);
  } catch (error) {
    stopCamera();
    note("picture-note", line(error));
  }
}

function stopCamera() {
  camera.stop();
  $("verdict").setAttribute("aria-live", "polite");
  setLive(false);
  if (page.picture) show("picture");
}

function setLive(on) {
  $("live").textContent = on ? "Stop camera" : "Start camera";
  $("live").setAttribute("aria-pressed", String(on));
}

async function runTest() {
  $("test-rows").replaceChildren();
  $("test-verdict").hidden = true;
  showTestVerdict(await alone("selfTest"));
}

async function saveRecord() {
  const record = await alone("record");
  download("tinyclip-edge-record.json", `${JSON.stringify(record, null, 2)}\n`);
}

/** Call a method of the engine while nothing else runs. */
async function alone(method) {
  stopCamera();
  const { engine } = page;
  setBusy(true);
  try {
    return await engine.call(method, {});
  } finally {
    if (engine === page.engine) {
      setBusy(false);
      say(null);
    }
  }
}

async function useFolder(files) {
  page.bundle = { files };
  $("test-rows").replaceChildren();
  $("test-verdict").hidden = $("test-results").hidden = true;
  await start();
}

/** Show any error of a step as one line on the page. */
const guarded = (step) => async (...args) => {
  try {
    await step(...args);
  } catch (error) {
    if (error instanceof Closed) return;
    say(line(error), { problem: true });
    if (!(error instanceof PageError)) console.error(error);
  }
};

function later(step) {
  let timer = null;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(guarded(step), TYPING_MS);
  };
}

function fillPage() {
  $("labels").value = FIRST_LABELS;
  for (const [name, labels] of Object.entries(PRESETS)) {
    const choose = () => {
      $("labels").value = labels;
      return guarded(relabel)();
    };
    $("presets").append(element("button", { type: "button", onclick: choose }, name));
  }
  for (const name of SAMPLES) {
    const src = `samples/${name.replaceAll(" ", "-")}.webp`;
    const choose = guarded(async () => usePicture(await (await fetch(src)).blob(), name));
    $("samples").append(element("button", { type: "button", onclick: choose, title: name }, element("img", { src, alt: name })));
  }
}

function wire() {
  $("labels").addEventListener("input", later(relabel));
  $("templates").addEventListener("input", later(relabel));
  for (const id of ["precision", "backend", "pixels"]) $(id).addEventListener("change", guarded(open));
  $("threads").addEventListener("change", guarded(() => start(chosen())));
  $("live").addEventListener("click", guarded(toggleCamera));
  $("test").addEventListener("click", guarded(runTest));
  $("record").addEventListener("click", guarded(saveRecord));
  listen({
    drop: $("drop"), file: $("file"), folder: $("folder"),
    onPicture: guarded(usePicture), onFolder: guarded(useFolder),
  });
}

const chosen = () => ({
  precision: $("precision").value,
  backend: $("backend").value,
  pixels: $("pixels").value,
  threads: Number($("threads").value),
});

guarded(async () => {
  fillPage();
  wire();
  $("samples").firstElementChild.click();
  const { bundle, wanted } = readAddress();
  page.bundle = bundle;
  await start(wanted);
})();
