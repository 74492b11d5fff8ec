// Labels and prompt templates as typed by the user; the same rules as in `tinyclip-edge demo`.
import { PageError } from "./errors.js";

const MOST_LABELS = 200, MOST_TEXT = 200, MOST_TEMPLATES = 16;

export const PRESETS = {
  Animals: "cat, dog, horse, cow, rabbit, bear, elephant, lion, monkey, fish, bird, frog, octopus",
  Food: "red apple, banana, grapes, pizza, hamburger, bread, cheese, carrot, birthday cake, ice cream",
  Travel: "automobile, bus, train, bicycle, airplane, rocket, ship, helicopter, ambulance, tractor",
  Things: "key, lock, umbrella, scissors, hammer, book, clock, camera, light bulb, guitar",
  "CIFAR-10": "airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck",
};
export const FIRST_LABELS = "cat face, bicycle, hamburger, umbrella, rocket, cactus, red apple, airplane";

const single = (text) => text.trim().split(/\s+/).join(" ");
const unique = (list) => [...new Set(list)].filter(Boolean);

/** Split at commas and line breaks, drop blanks and repeats; throw PageError below two labels. */
export function parseLabels(text) {
  const labels = unique(text.split(/[,\n]/).map(single));
  if (!labels.length) throw new PageError("no labels: enter two or more, separated by commas or line breaks");
  if (labels.length === 1) {
    throw new PageError(`only one label (${labels[0]}): it would always get 100 %; enter at least two`);
  }
  if (labels.length > MOST_LABELS) throw new PageError(`${labels.length} labels are too many: at most ${MOST_LABELS}`);
  for (const label of labels) checkLength(label, "a label");
  return labels;
}

/** Split at |; throw PageError when a template has no {} or there are too many. */
export function parseTemplates(text) {
  const found = unique(text.split("|").map((part) => part.trim()));
  const templates = found.length ? found : ["{}"];
  if (templates.length > MOST_TEMPLATES) {
    throw new PageError(`${templates.length} prompt templates are too many: at most ${MOST_TEMPLATES}`);
  }
  for (const template of templates) {
    if (!template.includes("{}")) throw new PageError("the prompt template needs {} in place of the label");
    checkLength(template, "the prompt template");
  }
  return templates;
}

function checkLength(text, what) {
  if (text.length > MOST_TEXT) throw new PageError(`${what} has ${text.length} characters: at most ${MOST_TEXT}`);
}
