// Text cleaning before the tokenizer, as tinyclip_edge/runtime/tokenizer.py does with ftfy and html,
// except that text decoded with a wrong encoding is not repaired.
import NAMED from "./entities.js";

// Python's str.split() and \s; JavaScript's \s differs.
export const BLANKS = "\\t-\\r\\x1c-\\x1f \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const BLANK_RUN = new RegExp(`[${BLANKS}]+`, "g");
const PLAIN = /^[ -%'-~\t\n\f\r]*$/;
const LONE_SURROGATE = /[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;
const CONTROLS = /[\0-\x08\x0b\x0e-\x1f\x7f\u206a-\u206f\ufeff\ufff9-\ufffc]/g;
const ENTITY = /&#?[0-9A-Za-z]{1,24};/g;
const REFERENCE = /&(#[0-9]+;?|#[xX][0-9a-fA-F]+;?|[^\t\n\f <&#;]{1,32};?)/g;
const LIGATURES = {
  "Ĳ": "IJ", "ĳ": "ij", "ŉ": "ʼn", "Ǳ": "DZ", "ǲ": "Dz", "ǳ": "dz", "Ǆ": "DŽ", "ǅ": "Dž", "ǆ": "dž",
  "Ǉ": "LJ", "ǈ": "Lj", "ǉ": "lj", "Ǌ": "NJ", "ǋ": "Nj", "ǌ": "nj",
  "ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "ſt", "ﬆ": "st",
};
const LIGATURE = new RegExp(`[${Object.keys(LIGATURES).join("")}]`, "g");
const WINDOWS_1252 = "€\x81‚ƒ„…†‡ˆ‰Š‹Œ\x8dŽ\x8f\x90‘’“”•–—˜™š›œ\x9džŸ"; // of 0x80 to 0x9f
const fromC1 = (char) => WINDOWS_1252[char.charCodeAt(0) - 0x80];

/** Return the text repaired, unescaped, with single spaces and in lower case. */
export function cleanText(text) {
  if (!PLAIN.test(text)) text = unescape(unescape(repaired(text)));
  return text.replace(BLANK_RUN, " ").replace(/^ | $/g, "").toLowerCase();
}

function repaired(text) {
  const entities = !text.includes("<");
  for (;;) {
    const before = text;
    if (entities) text = text.replace(ENTITY, named);
    text = text
      .replace(/[\x80-\x9f]/g, fromC1)
      .replace(LIGATURE, (char) => LIGATURES[char])
      .replace(/[\u3000\uff01-\uffef]/g, (char) => char.normalize("NFKC"))
      .replace(/[\u201c-\u201f]/g, '"')
      .replace(/[\u02bc\u2018-\u201b]/g, "'")
      .replace(/\r\n|[\r\u2028\u2029\x85]/g, "\n")
      .replace(LONE_SURROGATE, "\ufffd")
      .replace(/\x1b\[[\d;]*[a-zA-Z]/g, "")
      .replace(CONTROLS, "")
      .normalize("NFC");
    if (text === before) return text;
  }
}

/** A reference that ends in ";", including those in capital letters: &EACUTE; */
function named(entity) {
  const name = entity.slice(1), lower = name.toLowerCase();
  if (name[0] === "#") {
    const found = unescape(entity);
    return found.includes(";") ? entity : found;
  }
  if (Object.hasOwn(NAMED, name)) return NAMED[name];
  const known = name === name.toUpperCase() && Object.hasOwn(NAMED, lower) && unescape(entity) === entity;
  return known ? NAMED[lower].toUpperCase() : entity;
}

/** Python's html.unescape, that is HTML's rules: ";" is optional, the longest name wins. */
function unescape(text) {
  return text.includes("&") ? text.replace(REFERENCE, reference) : text;
}

function reference(whole, name) {
  if (name[0] === "#") return numbered(name);
  if (Object.hasOwn(NAMED, name)) return NAMED[name];
  for (let end = name.length - 1; end > 1; end--) {
    const start = name.slice(0, end);
    if (Object.hasOwn(NAMED, start)) return NAMED[start] + name.slice(end);
  }
  return whole;
}

function numbered(name) {
  const digits = name.slice(1).replace(/;$/, "");
  const code = /^x/i.test(digits) ? parseInt(digits.slice(1), 16) : parseInt(digits, 10);
  if (code >= 0x80 && code <= 0x9f) return fromC1(String.fromCharCode(code));
  if (code === 0 || (code >= 0xd800 && code <= 0xdfff) || code > 0x10ffff) return "\ufffd";
  if (code === 0x0d) return "\r";
  const invalid =
    (code >= 0x1 && code <= 0x8) || code === 0xb || (code >= 0xe && code <= 0x1f) || code === 0x7f ||
    (code >= 0xfdd0 && code <= 0xfdef) || (code & 0xfffe) === 0xfffe;
  return invalid ? "" : String.fromCodePoint(code);
}
