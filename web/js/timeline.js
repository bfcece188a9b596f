// The timeline in the AdaCache node and in its inspector: which evaluations were computed, which reused, and why.
//
// nodes/host/live.py sends one message per evaluation, and all of them again once the run is over; the inspector's
// output has the run it shows. A timeline is the merged messages of a run; nothing is computed from it here but text.
//
// What was shown last is kept in the browser and not in the workflow: there it would make the workflow a modified one
// after every run, be undone by Ctrl+Z, and go into pictures, whose workflow is written down before their run.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { ready, say } from "./words.js";

const APPLY = "AdaCacheApply";
const INSPECTOR = "AdaCacheInspector";
const KEPT = "AdaCache.timelines"; // in localStorage: workflow id -> node id (with those of its subgraphs) -> timeline
const WORKFLOWS_KEPT = 20;
const HEIGHT = 92; // enough for a note of four lines and bars of 28 pixels
const WIDTH = 225; // of a node, in which its lines have room
const READABLE = 440; // of a new inspector, whose picture then has letters of 10 pixels
const CROWDED = 80; // evaluations from which on there is no room between the bars

const STYLE = `
.adacache-timeline {
  --adacache-computed: #0072b2;
  display: flex; flex-direction: column; gap: 4px;
  box-sizing: border-box; min-height: ${HEIGHT}px;
  color: var(--input-text); font: 12px/15px Inter, Arial, sans-serif;
}
.dark-theme .adacache-timeline { --adacache-computed: #56b4e9; } /* frontend 1.49 and before; 1.58 has a color-scheme */
@supports (color: light-dark(red, red)) {
  .adacache-timeline { --adacache-computed: light-dark(#0072b2, #56b4e9); }
}
.adacache-timeline > .bars {
  flex: 1; display: flex; min-height: 24px; max-height: 60px; padding: 3px; border-radius: 4px; box-sizing: border-box;
  background: var(--comfy-input-bg); outline-offset: 1px;
}
.adacache-timeline > .bars:focus-visible { outline: 2px solid var(--adacache-computed); }
.adacache-timeline .bars > span { flex: 1; display: flex; align-items: end; }
.adacache-timeline .bars > span.shown { background: color-mix(in srgb, var(--input-text) 30%, transparent); }
.adacache-timeline .bars > span::before {
  content: ""; flex: 1; height: 2px; margin-right: 1px; background: var(--border-color);
}
.adacache-timeline .bars.crowded > span::before { margin-right: 0; }
.adacache-timeline .bars > .computed::before { height: 100%; background: var(--adacache-computed); }
.adacache-timeline .bars > .answered::before {
  height: 100%; box-sizing: border-box; background: none; border: 1px solid var(--adacache-computed); border-bottom: 0;
}
.adacache-timeline .bars > .partly::before {
  height: 62%; background: repeating-linear-gradient(var(--adacache-computed) 0 2px, transparent 2px 4px);
}
.adacache-timeline .bars > .reused::before {
  height: 20%; background: color-mix(in srgb, var(--input-text) 45%, var(--comfy-input-bg));
}
.adacache-timeline > p { margin: 0; min-height: 45px; }
.adacache-timeline > p[hidden] { display: none; }
.adacache-timeline p > span {
  display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 3; overflow: hidden; overflow-wrap: anywhere;
}
.adacache-timeline p > span + span:not(:last-child) { -webkit-line-clamp: 2; }
.adacache-timeline p > span + span, .adacache-timeline.old p > span {
  color: color-mix(in srgb, var(--input-text) 90%, transparent); /* read on nodes of any colour */
}
.adacache-timeline.old > .bars { opacity: 0.4; }

/* The inspector's picture in Nodes 2.0: as wide as its node, which becomes as high as that takes. */
[data-node-id]:has(.adacache-timeline.inspector) .image-preview { height: auto; }
[data-node-id]:has(.adacache-timeline.inspector) .image-preview > :has(> img) { flex: none; }
[data-node-id]:has(.adacache-timeline.inspector) .image-preview img { position: static; height: auto; }
`;

/** The strip of bars and the two or three lines below it, for one node. */
class Strip {
  constructor() {
    this.timeline = null;
    this.shown = -1; // the evaluation whose numbers are read
    this.bars = element("div", { className: "bars", role: "slider", tabIndex: -1 });
    this.bars.setAttribute("aria-label", say("timeline"));
    this.summary = element("p", {});
    this.details = element("p", { hidden: true, ariaHidden: "true" }); // the bars say it as their value
    this.element = element("div", { className: "adacache-timeline" }, this.bars, this.summary, this.details);
    this.bars.addEventListener("pointermove", (event) => this.read(this.under(event)));
    this.bars.addEventListener("pointerdown", (event) => this.read(this.under(event)));
    this.bars.addEventListener("pointerleave", () => document.activeElement === this.bars || this.read(-1));
    this.bars.addEventListener("focus", () => this.shown >= 0 || this.read(0));
    this.bars.addEventListener("blur", () => this.read(-1));
    this.bars.addEventListener("keydown", (event) => this.press(event));
    this.element.addEventListener("wheel", (event) => this.zoom(event));
    this.show(null);
  }

  /** Draws a timeline, null for none yet; dimmed, if it is not known to be of this workflow as it is now. */
  show(timeline, old = false) {
    const running = timeline && !timeline.done;
    this.timeline = timeline;
    // A screen reader is told how a run ended, and is not interrupted at every evaluation of it.
    this.summary.ariaLive = running ? "off" : "polite";
    this.said = timeline ? summaryOf(timeline, old) : [say("noRun"), say("noRunMore")];
    this.element.classList.toggle("old", old);
    lines(this.summary, this.said);
    if (timeline?.closeness) this.summary.lastChild.title = aboutCloseness(timeline);
    const slots = timeline ? Math.max(timeline.expected, timeline.evaluations.length) : 0;
    this.bars.replaceChildren(
      ...Array.from({ length: slots }, (_, index) =>
        element("span", { className: timeline.evaluations[index]?.state ?? "" }),
      ),
    );
    this.bars.classList.toggle("crowded", slots > CROWDED);
    this.bars.tabIndex = timeline?.evaluations.length ? 0 : -1;
    this.bars.ariaDisabled = String(this.bars.tabIndex < 0);
    this.read(Math.min(this.shown, slots - 1));
  }

  /** Shows the numbers of an evaluation; those of the run instead for -1, or where there are none yet. */
  read(index) {
    const evaluations = this.timeline?.evaluations ?? [];
    const evaluation = evaluations[index];
    this.bars.children[this.shown]?.classList.remove("shown");
    this.shown = evaluation ? index : -1;
    this.bars.children[this.shown]?.classList.add("shown");
    this.summary.hidden = Boolean(evaluation);
    this.details.hidden = !evaluation;
    const text = evaluation ? detailsOf(evaluation) : this.said;
    if (evaluation) lines(this.details, text);
    this.bars.ariaValueMin = "0";
    this.bars.ariaValueMax = String(Math.max(0, evaluations.length - 1));
    this.bars.ariaValueNow = String(Math.max(0, this.shown));
    this.bars.ariaValueText = text.join("; ");
  }

  press(event) {
    const last = (this.timeline?.evaluations.length ?? 0) - 1;
    const [before, after] = [this.shown - 1, this.shown + 1];
    const keys = { ArrowLeft: before, ArrowDown: before, ArrowRight: after, ArrowUp: after, Home: 0, End: last };
    if (!(event.key in keys)) return;
    event.preventDefault();
    event.stopPropagation(); // the canvas has a use for these keys too
    this.read(Math.min(Math.max(keys[event.key], 0), last));
  }

  /** On the classic canvas the strip lies above it, and it is the canvas that zooms; Nodes 2.0 see to it themselves. */
  zoom(event) {
    if (!this.element.closest(".dom-widget")) return;
    event.preventDefault();
    app.canvas.canvas.dispatchEvent(new WheelEvent(event.type, event));
  }

  under(event) {
    const { left, width } = this.bars.getBoundingClientRect();
    return Math.floor(((event.clientX - left) / width) * this.bars.children.length);
  }
}

function summaryOf({ computed, total, saved, left, speedup, preset, done, note, stopped, closeness }, old) {
  const first = stopped ? [stopped] : [say("computedOf", { computed, total })];
  if (saved > 0) first.push(say("saved", { time: duration(saved) }));
  const second = [];
  if (done && speedup) second.push(say("faster", { times: speedup.toFixed(2) }));
  if (!done && left > 0) second.push(say("left", { time: duration(left) }));
  if (preset) second.push(preset);
  const what = first.join(" · ");
  const said = [old ? say("lastRun", { what }) : what, note || second.join(" · ")];
  // Where the other lines may need two each, there is room for one more.
  if (closeness) said.push(expected(old || note ? "expectedShort" : "expected", closeness));
  return said;
}

function expected(key, { db, low, high, words }) {
  const [about, from, to] = [db, low, high].map(Math.round);
  return say(key, { db: about, low: from, high: to, words: say(`close ${words}`, {}, words) });
}

/** In full, and what the video would take at other qualities. */
function aboutCloseness({ closeness, would_take, total }) {
  const others = Object.entries(would_take ?? {}).map(([quality, count]) => say(`take ${quality}`, { count, total }));
  return [expected("expected", closeness), ...others].join("\n");
}

function detailsOf({ step, sigma, state, reason, metric, rate, error, seconds }) {
  const first = [say("step", { step }), say(state)];
  if (sigma !== undefined) first.push(say("noise", { value: sigma }));
  if (seconds !== undefined) first.push(duration(seconds));
  const second = reason === `rate ${rate}` ? [] : [say(`why ${reason}`, {}, reason)];
  if (metric !== undefined) second.push(say("change", { value: metric }));
  if (rate !== undefined) second.push(say("rate", { rate }));
  if (error !== undefined) second.push(say("off", { share: percent(error) }));
  return [first.join(" · "), second.filter(Boolean).join(" · ")];
}

function percent(share) {
  return `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;
}

function duration(seconds) {
  if (seconds < 9.95) return `${seconds.toPrecision(2)} s`;
  const whole = Math.round(seconds);
  return whole < 60 ? `${whole} s` : `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

function lines(paragraph, texts) {
  paragraph.replaceChildren(...texts.map((text) => element("span", { textContent: text, title: text })));
}

function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const strips = new WeakMap(); // node -> Strip
const outside = new WeakMap(); // subgraph's node -> path of an AdaCache node in it -> widget with a Strip
const timelines = kept(); // as in localStorage
let seen = new WeakSet(); // timelines of runs since the workflow on the screen was opened

function kept() {
  try {
    return JSON.parse(localStorage.getItem(KEPT)) ?? {};
  } catch {
    return {}; // not ours, or no storage: nothing is remembered
  }
}

function keep() {
  try {
    localStorage.setItem(KEPT, JSON.stringify(timelines));
  } catch {
    // It is full or forbidden: what is shown stays until the page is left.
  }
}

const root = () => app.rootGraph ?? app.graph; // frontends up to 1.35 know only the latter

/** The timelines of a workflow, which thereby becomes the one that is forgotten last. */
function of(workflow) {
  const found = timelines[workflow] ?? {};
  delete timelines[workflow];
  timelines[workflow] = found;
  for (const old of Object.keys(timelines).slice(0, -WORKFLOWS_KEPT)) delete timelines[old];
  return found;
}

/** The node that the host calls "outer:inner", of the workflow on the screen or of one of its subgraphs. */
function nodeAt(path, graph = root()) {
  let node = null;
  for (const id of path.split(":")) {
    node = graph?.getNodeById(id);
    graph = node?.subgraph;
  }
  return node;
}

const beside = (path, node) => path.replace(/[^:]*$/, node.id);

/** The AdaCache node that an inspector's MODEL comes from. */
function applyOf(inspector) {
  let node = inspector;
  while (node && node.comfyClass !== APPLY) {
    const input = node.inputs?.findIndex((each) => each.type === "MODEL") ?? -1;
    node = input < 0 ? null : node.getInputNode(input);
  }
  return node;
}

/** What was set on the AdaCache node of a strip, as text. */
function settingsOf(node) {
  const apply = node?.comfyClass === INSPECTOR ? applyOf(node) : node;
  const values = (apply?.widgets ?? []).filter((widget) => widget.serialize !== false).map((widget) => widget.value);
  const connected = (apply?.inputs ?? []).map((input) => input.link != null);
  return JSON.stringify([values, connected]);
}

/** Gives a node a strip, as its last widget. */
function addStrip(node, name) {
  const strip = new Strip();
  const height = () => HEIGHT + 20; // with the margins that the canvas puts round a widget
  const options = { serialize: false, hideOnZoom: false, getMinHeight: height, getMaxHeight: height };
  const widget = node.addDOMWidget(name, "adacache_timeline", strip.element, options);
  widget.serialize = false; // the option above keeps it out of the prompt, this out of the workflow
  // The right panel sets the width that it gives the strip, and the canvas would keep to it when drawing the node.
  Object.defineProperty(widget, "width", { get: () => undefined, set: () => {} });
  return Object.assign(widget, { strip });
}

/** The strips of an AdaCache node on the subgraphs that it is in, made when there is something to show. */
function stripsOutside(path) {
  const ids = path.split(":");
  return ids.slice(1).flatMap((_, depth) => {
    const holder = nodeAt(ids.slice(0, depth + 1).join(":"));
    const inner = ids.slice(depth + 1).join(":");
    if (!holder?.addDOMWidget) return [];
    if (!outside.has(holder)) hold(holder);
    const widgets = outside.get(holder);
    if (!widgets.has(inner)) widgets.set(inner, enlarged(holder, () => addStrip(holder, `timeline ${inner}`)));
    return [widgets.get(inner).strip];
  });
}

/** Keeps what strips add to a subgraph's node out of the workflow, or each run would modify it. */
function hold(holder) {
  outside.set(holder, new Map());
  const serialized = holder.onSerialize;
  holder.onSerialize = function (saved) {
    serialized?.call(this, saved);
    for (const { added } of outside.get(holder).values()) saved.size = without(saved.size, added);
  };
}

/** Adds a strip to a node, which becomes larger by what that takes, noted as `added`. */
function enlarged(node, add) {
  const [width, height] = node.size;
  const widget = add();
  node.setSize([Math.max(width, WIDTH), height + HEIGHT + 20]);
  return Object.assign(widget, { added: without(node.size, [width, height]) });
}

const without = ([width, height], [wide, high]) => [width - wide, height - high];

/** Takes strips off the subgraphs whose AdaCache node is gone. */
function tidy(graph = root()) {
  for (const holder of graph.nodes.filter((node) => node.subgraph)) {
    tidy(holder.subgraph);
    for (const [inner, widget] of outside.get(holder) ?? []) {
      if (nodeAt(inner, holder.subgraph)?.comfyClass === APPLY) continue;
      const size = without(holder.size, widget.added);
      outside.get(holder).delete(inner);
      holder.removeWidget(widget);
      holder.setSize(size);
    }
  }
}

/** Takes a workflow that was opened: what is known of it has happened elsewhere, if only with another copy of it. */
function opened() {
  const running = Object.values(timelines[root().id] ?? {}).filter((timeline) => !timeline.done && seen.has(timeline));
  seen = new WeakSet(running);
  refresh();
}

/** Shows what is known of the workflow on the screen. */
function refresh() {
  const paths = timelines[root().id] ?? {};
  for (const [path, timeline] of Object.entries(paths)) {
    const node = nodeAt(path);
    const old = !seen.has(timeline);
    if (old && timeline.settings && timeline.settings !== settingsOf(node)) continue;
    strips.get(node)?.show(timeline, old);
    if (node?.comfyClass !== APPLY) continue;
    for (const strip of stripsOutside(path)) strip.show(timeline, old);
    // An inspector shows a run as it goes, but only if there is one: of several each shows the run of its own latent.
    const inspectors = node.graph.nodes.filter((each) => each.comfyClass === INSPECTOR && applyOf(each) === node);
    if (inspectors.length === 1 && !timeline.done) strips.get(inspectors[0])?.show(timeline);
  }
}

function receive({ detail: message }) {
  const paths = of(message.workflow ?? root().id);
  const known = paths[message.node];
  const evaluations = known?.run === message.run && !message.done ? [...known.evaluations] : [];
  for (const evaluation of message.evaluations) evaluations[evaluation.index] = evaluation;
  const elsewhere = message.workflow && message.workflow !== root().id; // another workflow is on the screen
  const settings = elsewhere ? known?.settings : settingsOf(nodeAt(message.node));
  remember(paths, message.node, { ...message, evaluations, settings });
  if (message.done) keep();
  refresh();
}

function remember(paths, path, timeline) {
  paths[path] = timeline;
  seen.add(timeline);
}

function executed({ detail: { node, output } }) {
  const path = String(node);
  const timeline = output?.adacache?.[0];
  const inspector = timeline && nodeAt(path);
  if (inspector?.comfyClass !== INSPECTOR) return;
  const paths = of(root().id);
  timeline.settings = settingsOf(inspector);
  remember(paths, path, timeline);
  const apply = applyOf(inspector);
  const other = apply?.graph === inspector.graph && beside(path, apply);
  if (other && !seen.has(paths[other])) remember(paths, other, timeline); // the host had all of it in its cache
  keep();
  refresh();
}

app.registerExtension({
  name: "AdaCache.Timeline",
  init: () => ready,
  setup() {
    document.head.append(element("style", { textContent: STYLE }));
    api.addEventListener("adacache.timeline", receive);
    api.addEventListener("executed", executed);
  },
  nodeCreated(node) {
    if (node.comfyClass !== APPLY && node.comfyClass !== INSPECTOR) return;
    strips.set(node, addStrip(node, "timeline").strip);
    if (node.comfyClass === INSPECTOR) {
      strips.get(node).element.classList.add("inspector");
      node.setSize([Math.max(node.size[0], READABLE), node.size[1]]);
    }
    const removed = node.onRemoved;
    node.onRemoved = function () {
      removed?.call(this);
      setTimeout(tidy); // once it is gone
    };
  },
  afterConfigureGraph: opened,
});
