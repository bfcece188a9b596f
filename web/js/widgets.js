// How the widgets of the nodes look: what does nothing as things are set is greyed out, and presets are called what
// they are. Only what is shown: the values in workflows stay what they are.

import { app } from "../../../scripts/app.js";
import { ready, say } from "./words.js";

/** For each node: widget -> whether it does nothing, from the values of the others and from what is connected. */
const IDLE = {
  AdaCacheApply: ({ preset }, { codebook, schedule }) => {
    const off = preset === "off";
    const looksInside = !off && (codebook || !["auto", "quality"].includes(preset));
    return {
      speedup: preset !== "auto" || codebook || schedule,
      closeness: preset !== "quality" || codebook || schedule,
      start_percent: off,
      end_percent: off,
      probe_position: !looksInside,
      cache_device: !looksInside,
    };
  },
  AdaCacheCodebook: ({ table }) => ({ text: table !== "custom" }),
  AdaCacheMoReg: ({ window, form }) => ({
    start_percent: window !== "custom",
    end_percent: window !== "custom",
    pivot: form === "paper",
    power: form === "paper",
    divisor: form === "paper",
    gradient: form === "paper",
  }),
};

const CHOOSE = ["preset", "table", "window", "form"]; // widgets on which it depends what others do

function greyOut(node) {
  const connected = Object.fromEntries((node.inputs ?? []).map(({ name, link }) => [name, link != null]));
  const unknown = CHOOSE.some((name) => connected[name]); // until the workflow runs
  const values = Object.fromEntries(node.widgets.map(({ name, value }) => [name, value]));
  for (const [name, idle] of Object.entries(IDLE[node.comfyClass](values, connected))) {
    const widget = node.widgets.find((each) => each.name === name);
    if (widget) widget.disabled = Boolean(idle) && !unknown;
  }
}

/** Calls a function each time that another one of an object was called. */
function after(object, name, react) {
  const before = object[name];
  object[name] = function (...given) {
    const result = before?.apply(this, given);
    react();
    return result;
  };
}

app.registerExtension({
  name: "AdaCache.Widgets",
  init: () => ready,
  nodeCreated(node) {
    if (!(node.comfyClass in IDLE)) return;
    const update = () => greyOut(node);
    for (const widget of node.widgets) if (CHOOSE.includes(widget.name)) after(widget, "callback", update);
    for (const event of ["onConnectionsChange", "onConfigure"]) after(node, event, update);
    const preset = node.widgets.find(({ name }) => name === "preset");
    if (preset) preset.options.getOptionLabel = (value) => say(`preset ${value}`, {}, String(value));
    update();
  },
});
