// What the other files here say to people, in the language of the interface: `locales/<language>/main.json`, under
// "AdaCache", which the host hands out to everybody. What is not there is said in English.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";

const ENGLISH = {
  speedUp: "Speed up this workflow with AdaCache",
  takeOut: "Take AdaCache out of this workflow",
  isIn: "AdaCache is in this workflow now",
  isInBefore: "It stands before {samplers}. Ctrl+Z undoes it. Runs of 4 to 8 steps gain little or nothing.",
  wasIn: "AdaCache is in this workflow already",
  wasInBefore: "It stands before {samplers}.",
  nothingFound: "AdaCache found nothing to speed up here",
  whatIsSought: "It goes before a sampler or guider that has a MODEL connected.",
  leftOut: "Left out: {samplers}. Of a model that makes frame after frame, or takes one step, nothing can be skipped.",
  inSubgraph: "{sampler} in {subgraph}",
  isOut: "AdaCache is out of this workflow",
  isOutOf: "Nodes taken out: {count}. Ctrl+Z brings them back.",
  wasOut: "There is no AdaCache in this workflow",
};

let translated = {};

api
  .fetchApi("/i18n")
  .then((answer) => answer.json())
  .then((all) => (translated = all))
  .catch(() => {}); // a host without translations

/** A text, its {names} replaced by values. */
export function say(key, values = {}) {
  const language = app.extensionManager?.setting?.get("Comfy.Locale");
  const text = translated[language]?.AdaCache?.[key] ?? ENGLISH[key];
  return text.replace(/{(\w+)}/g, (_, name) => values[name]);
}
