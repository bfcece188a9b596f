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

  "preset fast": "fast (paper)",
  "preset slow": "slow (paper)",
  "preset watch": "watch (to calibrate)",

  timeline: "AdaCache timeline",
  noRun: "No run yet",
  noRunMore: "Its steps will be shown here",
  lastRun: "Last run: {what}",
  computedOf: "{computed} of {total} computed",
  saved: "{time} saved",
  faster: "{times}x faster",
  left: "about {time} left",
  expected: "expected: {db} dB close ({low} to {high}), {words}",
  expectedShort: "expected: {words} ({db} dB)",
  "close very hard to tell apart": "very hard to tell apart",
  "close hard to tell apart": "hard to tell apart",
  "close hard to predict at this cfg": "hard to predict at this cfg",
  "close small differences": "small differences",
  "close visible differences": "visible differences",
  "take draft": "draft: about {count} of {total} computed",
  "take good": "good: about {count} of {total} computed",
  "take faithful": "faithful: about {count} of {total} computed",
  step: "step {step}",
  computed: "computed",
  reused: "reused",
  partly: "partly computed",
  answered: "answered by another cache",
  noise: "noise level {value}",
  change: "changed by {value} a step",
  rate: "one step in {rate} is computed",
  off: "forecast off by {share}",

  "why first step": "the first step",
  "why last steps": "one of the last steps",
  "why outside start..end": "before start_percent or after end_percent",
  "why as planned": "as the schedule says",
  "why below tolerance": "the forecast is close enough",
  "why tolerance reached": "the forecast would be too far off",
  "why far from the last computed step": "too far from the last computed step",
  "why due": "its turn",
  "why no metric yet": "nothing to compare with yet",
  "why nothing to reuse": "nothing to reuse yet",
  "why guidance changes": "guidance changes here",
};

let translated = {};

/** Resolved once translations are known. */
export const ready = api
  .fetchApi("/i18n")
  .then((answer) => answer.json())
  .then((all) => (translated = all))
  .catch(() => {}); // a host without translations

/** A text, its {names} replaced by values; `otherwise` for a key that is not known. */
export function say(key, values = {}, otherwise = key) {
  const language = app.extensionManager?.setting?.get("Comfy.Locale");
  const text = translated[language]?.AdaCache?.[key] ?? ENGLISH[key] ?? otherwise;
  return text.replace(/{(\w+)}/g, (_, name) => values[name]);
}
