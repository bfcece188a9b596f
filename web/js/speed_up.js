// Two commands: put AdaCache before every sampler of the workflow on the screen, and take it out again.
//
// What a sampler is, its slots say: it takes a MODEL and gives a GUIDER or a LATENT. The workflow has the slots of
// nodes of packs that are not installed too, so those are treated like all others.

import { app } from "../../../scripts/app.js";
import { ready, say } from "./words.js";

const APPLY = "AdaCacheApply";
const MEASURE = "AdaCacheMeasure"; // samples with AdaCache by itself
const INSPECTOR = "AdaCacheInspector";
const SETTINGS = ["AdaCacheCodebook", "AdaCacheMoReg", "AdaCacheSchedule"]; // nothing but AdaCache has a use for them
// Core nodes of models of which AdaCache skips nothing: preset auto computes every step, the tables refuse them.
const LEFT_OUT = /ARVideo|SeedVR2/;
const HELP_LINK = 'a[href="#adacache-speed-up"]'; // in the help page of the node

const GAP = 30; // between nodes
const TITLE = 30; // of a node, above its position
const GROUP_TITLE = 50;
const STEP = 20; // of the places that are tried
const REACH = 1600; // how far from the sampler

const root = () => app.rootGraph ?? app.graph; // frontends up to 1.35 know only the latter

/** All graphs of the workflow: the outer one, and each subgraph once, however many nodes stand for it. */
function graphs() {
  const found = [root()];
  for (const graph of found) {
    for (const { subgraph } of graph.nodes) if (subgraph && !found.includes(subgraph)) found.push(subgraph);
  }
  return found;
}

const allNodes = () => graphs().flatMap((graph) => graph.nodes);
const holdersOf = (subgraph) => allNodes().filter((node) => node.subgraph === subgraph);
const slotsOf = (node, type) => (node.inputs ?? []).flatMap((input, slot) => (input.type === type ? [slot] : []));
const gives = (node, type) => (node.outputs ?? []).some((output) => output.type === type);
const linkInto = (node, slot) => node.graph.getLink(node.inputs[slot]?.link);
const linksFrom = (node, slot) => (node.outputs[slot].links ?? []).map((id) => node.graph.getLink(id));

function isSampler(node) {
  if (node.subgraph || node.type === MEASURE || !slotsOf(node, "MODEL").length) return false;
  const chooses = slotsOf(node, "SAMPLER").length || node.inputs.some((input) => input.name === "sampler_name");
  return gives(node, "GUIDER") || (gives(node, "LATENT") && (chooses || !gives(node, "MODEL")));
}

/** The nodes that make what a link brings; a subgraph's, where it comes out of one. */
function makersOf(graph, link) {
  if (!link) return [];
  const node = graph.getNodeById(link.origin_id);
  if (!node) {
    const slot = link.origin_slot; // of the subgraph's edge
    return holdersOf(graph).flatMap((holder) => makersOf(holder.graph, linkInto(holder, slot)));
  }
  if (!node.subgraph) return [node];
  const out = ({ target_id, target_slot }) =>
    target_id === node.subgraph.outputNode.id && target_slot === link.origin_slot;
  return [...node.subgraph.links.values()].filter(out).flatMap((inner) => makersOf(node.subgraph, inner));
}

/** All nodes that a MODEL has passed before it gets here. */
function passedBy(graph, link, found = new Set()) {
  for (const node of makersOf(graph, link)) {
    if (found.has(node)) continue;
    found.add(node);
    for (const slot of slotsOf(node, "MODEL")) passedBy(node.graph, linkInto(node, slot), found);
  }
  return found;
}

/** Whether nothing could be skipped of the model, as far as the nodes around the sampler tell. */
function isLeftOut(sampler, passed) {
  const links = gives(sampler, "GUIDER") ? linksFrom(sampler, 0) : [];
  const users = links.map((link) => sampler.graph.getNodeById(link.target_id));
  const beside = [sampler, ...users.filter(Boolean)].flatMap((node) =>
    node.inputs.flatMap((_, slot) => makersOf(node.graph, linkInto(node, slot))),
  );
  return [...passed, ...beside].some((node) => LEFT_OUT.test(node.type));
}

/** The links on which a MODEL gets to a sampler without being changed, the last one first: through reroutes, and into
 * subgraphs. Where several nodes stand for a subgraph, its edge is taken for the beginning: there the ways part.
 */
function wayTo(sampler, slot) {
  const way = [];
  let [node, link] = [sampler, linkInto(sampler, slot)];
  while (link) {
    const { graph } = node;
    way.push({ graph, link, from: [graph.id, link.origin_id, link.origin_slot].join() });
    const origin = graph.getNodeById(link.origin_id);
    const holders = origin ? [] : holdersOf(graph);
    if (origin && /reroute/i.test(origin.type) && origin.inputs?.length === 1) [node, slot] = [origin, 0];
    else if (holders.length === 1) [node, slot] = [holders[0], link.origin_slot];
    else break;
    link = linkInto(node, slot);
  }
  return way;
}

/** What to cut, for one AdaCache node each: where samplers get the same MODEL, behind the last point they share. */
function cuts(ways) {
  const models = Map.groupBy(ways, (way) => way.at(-1).from);
  return [...models.values()].map((group) => {
    const { from } = group[0].find((step) => group.every((way) => way.some((other) => other.from === step.from)));
    const steps = group.map((way) => way.find((step) => step.from === from));
    return { graph: steps[0].graph, links: [...new Set(steps.map((step) => step.link))] };
  });
}

/** Connects what a link comes from, a node or the edge of a subgraph, with an input; on its native reroutes. */
function connect(graph, { origin_id, origin_slot, parentId }, node, slot) {
  const origin = graph.getNodeById(origin_id);
  if (origin) origin.connect(origin_slot, node, slot, parentId);
  else graph.inputNode.slots[origin_slot].connect(node.inputs[slot], node, parentId);
}

function putBefore({ graph, links }) {
  const apply = LiteGraph.createNode(APPLY);
  apply.setSize(apply.computeSize()); // with the timeline, which came when it had its size
  apply.pos = roomFor(apply.size, graph, links);
  const targets = links.map((link) => [graph.getNodeById(link.target_id), link.target_slot]);
  const modes = new Set(targets.map(([node]) => node.mode));
  if (modes.size === 1) [apply.mode] = modes; // part of what is bypassed or muted together
  graph.add(apply);
  connect(graph, links[0], apply, 0);
  for (const [node, slot] of targets) apply.connect(0, node, slot);
}

/** The free place with the shortest wires, not half in a group, and with wires that run to the right if it can be. */
function roomFor([width, height], graph, links) {
  const origin = graph.getNodeById(links[0].origin_id) ?? graph.inputNode;
  const targets = links.map((link) => boxOf(graph.getNodeById(link.target_id)));
  const [left, top, wide] = boxOf(origin);
  const [from, at] = [left + wide, top + TITLE];
  const taken = [...graph.nodes, graph.inputNode, graph.outputNode].filter(Boolean).map(boxOf);
  const groups = (graph._groups ?? []).map(({ pos, size }) => [...pos, ...size]);
  const [firstX, firstY] = [targets[0][0] - GAP - width, targets[0][1]];
  let [best, least] = [[firstX, firstY], Infinity];
  for (let dx = -REACH; dx <= REACH; dx += STEP) {
    for (let dy = -REACH; dy <= REACH; dy += STEP) {
      const box = [firstX + dx, firstY + dy, width, height + TITLE];
      let cost = wire(from, at, box[0], box[1] + TITLE);
      for (const [x, y] of targets) cost += wire(box[0] + width, box[1] + TITLE, x, y + TITLE);
      if (cost >= least || taken.some((other) => overlap(box, other, GAP))) continue;
      if (!groups.some((group) => straddles(box, group))) [best, least] = [box, cost];
    }
  }
  return [best[0], best[1] + TITLE];
}

/** How long a wire looks; one that runs back makes a loop. */
function wire(x, y, toX, toY) {
  const back = Math.max(0, x + GAP - toX);
  return Math.hypot(toX - x, toY - y) + 3 * back;
}

/** Left, top, width and height, of a node with its title or of an edge of a subgraph. */
function boxOf(item) {
  if (!item.inputs) return [...item.boundingRect];
  const [width, height] = item.flags?.collapsed ? [item._collapsed_width ?? 160, 0] : item.size;
  // Not its own bounds, which are those of when it was last drawn.
  return [item.pos[0], item.pos[1] - TITLE, width, height + TITLE];
}

function overlap([x, y, w, h], [left, top, wide, high], gap) {
  return x < left + wide + gap && left < x + w + gap && y < top + high + gap && top < y + h + gap;
}

function straddles(box, group) {
  const [x, y, w, h] = box;
  const [left, top, wide, high] = group;
  const inside = x >= left && x + w <= left + wide && y >= top + GROUP_TITLE && y + h <= top + high;
  return !inside && overlap(box, group, 0);
}

/** Makes changes to the workflow that one Ctrl+Z undoes. */
function asOneChange(change) {
  app.canvas.emitBeforeChange();
  try {
    change();
  } finally {
    app.canvas.emitAfterChange();
    app.canvas.setDirty(true, true);
  }
}

function speedUp() {
  const [ways, before, done, without] = [[], [], [], []];
  for (const sampler of allNodes().filter(isSampler)) {
    for (const slot of slotsOf(sampler, "MODEL")) {
      const way = wayTo(sampler, slot);
      if (!way.length) continue;
      const passed = passedBy(sampler.graph, way[0].link);
      if ([...passed].some((node) => node.type === APPLY)) before.push(sampler);
      else if (isLeftOut(sampler, passed)) without.push(sampler);
      else {
        ways.push(way);
        done.push(sampler);
      }
    }
  }
  if (ways.length) asOneChange(() => cuts(ways).forEach(putBefore));
  const leftOut = without.length ? say("leftOut", { samplers: names(without) }) : "";
  if (done.length) tell("success", "isIn", [say("isInBefore", { samplers: names(done) }), leftOut]);
  else if (before.length) tell("info", "wasIn", [say("wasInBefore", { samplers: names(before) }), leftOut]);
  else tell("info", "nothingFound", [leftOut || say("whatIsSought")]);
}

/** The nodes' titles, and the subgraphs that they are in. */
function names(nodes) {
  const named = nodes.map((node) => {
    const sampler = node.title || node.type; // a node that is not installed has no title
    return node.graph === root() ? sampler : say("inSubgraph", { sampler, subgraph: node.graph.name });
  });
  const times = Map.groupBy(named, (name) => name);
  return [...times].map(([name, { length }]) => (length > 1 ? `${length} x ${name}` : name)).join(", ");
}

/** Takes a node out; what came in at the input of a type goes to where its first output went. */
function bridge(node, type) {
  const { graph } = node;
  const link = linkInto(node, slotsOf(node, type)[0]);
  for (const { target_id, target_slot, parentId } of link ? linksFrom(node, 0) : []) {
    const [target, origin] = [graph.getNodeById(target_id), graph.getNodeById(link.origin_id)];
    const reroute = link.parentId ?? parentId;
    if (target) connect(graph, { ...endsOf(link), parentId: reroute }, target, target_slot);
    else if (origin) graph.outputNode.slots[target_slot].connect(origin.outputs[link.origin_slot], origin, reroute);
  }
  graph.remove(node);
}

const endsOf = ({ origin_id, origin_slot }) => ({ origin_id, origin_slot });
const isUsed = (node, from = 0) => node.outputs.some((_, slot) => slot >= from && linksFrom(node, slot).length);

/** All AdaCache nodes but those whose other outputs somebody uses, and those that work without an AdaCache. */
function takeOut() {
  const applies = allNodes().filter((node) => node.type === APPLY);
  if (!applies.length) return tell("info", "wasOut", []);
  let count = 0;
  const remove = (node, type) => {
    bridge(node, type);
    count += 1;
  };
  asOneChange(() => {
    for (const node of applies) remove(node, "MODEL");
    const inspectors = () => allNodes().filter((node) => node.type === INSPECTOR && !isUsed(node, 1));
    for (let [node] = inspectors(); node; [node] = inspectors()) remove(node, "LATENT"); // one may feed another
    for (const node of allNodes()) if (SETTINGS.includes(node.type) && !isUsed(node)) remove(node, "");
  });
  tell("success", "isOut", [say("isOutOf", { count })]);
}

function tell(severity, summary, detail) {
  const message = { severity, summary: say(summary), detail: detail.filter(Boolean).join(" "), life: 12000 };
  app.extensionManager.toast.add(message);
}

const COMMANDS = [
  { id: "AdaCache.SpeedUp", icon: "pi pi-bolt", label: () => say("speedUp"), function: speedUp },
  { id: "AdaCache.TakeOut", icon: "pi pi-eraser", label: () => say("takeOut"), function: takeOut },
];

app.registerExtension({
  name: "AdaCache.SpeedUp",
  init: () => ready,
  commands: COMMANDS,
  menuCommands: [{ path: ["Extensions"], commands: COMMANDS.map(({ id }) => id) }],
  getCanvasMenuItems: () => [null, ...COMMANDS.map((each) => ({ content: each.label(), callback: each.function }))],
  setup() {
    // The frontend shows no button of ours in a help page, but leaves links in it as they are.
    document.addEventListener("click", (event) => {
      if (!event.target.closest?.(HELP_LINK)) return;
      event.preventDefault();
      speedUp();
    });
  },
});
