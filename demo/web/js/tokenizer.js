// CLIP's byte-level byte-pair tokenizer from a bundle's tokenizer.json.
import { PageError } from "./errors.js";
import { BLANKS, cleanText } from "./text.js";

const STARTS = ["<|startoftext|>", "<start_of_text>"];
const ENDS = ["<|endoftext|>", "<end_of_text>"];
// CLIP's word pattern as a tokenizer.json spells it, and as open_clip applies it, ignoring case: a
// long s counts as an s, and U+0345, whose other case is a letter, is dropped.
const WORDS = "'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+";
const CASELESS = WORDS.replace("'s", "'[sſ]").replace("{N}]+", "{N}\u0345]+");
const CLEANING = ["NFC", "Lowercase", "Replace"]; // normalizers whose work cleanText has already done
// The default word pattern of a byte-level tokenizer.
const BYTE_LEVEL_WORDS =
  "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
const KEPT_WORDS = 20000;

const refuse = (what) =>
  new PageError(
    `this bundle's tokenizer has ${what}, but this page reads only CLIP's byte-pair tokenizers; ` +
      "open the bundle with tinyclip_edge.EdgeCLIP in Python",
  );

/** Texts to token ids: start, pieces, end; a truncated text keeps its end token. */
export class ClipTokenizer {
  /** Read the bytes of a tokenizer.json; throw PageError for a damaged or unsupported file. */
  constructor(bytes, manifest) {
    if (Object.keys(manifest.tokenizer).length) throw refuse("special rules");
    const file = parse(bytes);
    this.context = manifest.context_length;
    this.normalize = onlyCleans(file.normalizer) ? (text) => text : normalizer(file.normalizer);
    this.split = splitter(file.pre_tokenizer);
    this.#readModel(file.model);
    const names = { ...this.vocab, ...Object.fromEntries((file.added_tokens ?? []).map((t) => [t.content, t.id])) };
    this.start = special(names, STARTS);
    this.end = special(names, ENDS);
    this.unknown = names[file.model.unk_token];
    if (this.end !== manifest.eot_token_id) {
      throw new PageError(
        `tokenizer.json belongs to another model: its end token is ${this.end}, not ${manifest.eot_token_id}`,
      );
    }
  }

  #readModel(model) {
    const usual = (model?.type ?? "BPE") === "BPE" && Array.isArray(model?.merges) && model.vocab;
    if (!usual) throw refuse(`a ${model?.type ?? "nameless"} model`);
    for (const key of ["byte_fallback", "ignore_merges", "continuing_subword_prefix", "dropout", "fuse_unk"]) {
      if (model[key]) throw refuse(`${key} set`);
    }
    this.vocab = model.vocab;
    this.suffix = model.end_of_word_suffix ?? "";
    this.ranks = new Map();
    model.merges.forEach((merge, rank) => {
      const [left, right] = Array.isArray(merge) ? merge : merge.split(" ");
      this.ranks.set(`${left} ${right}`, rank);
    });
    this.words = new Map();
  }

  /** Return the token ids of one text, truncated to the context length. */
  encode(text) {
    const ids = [];
    for (const word of this.split(this.normalize(cleanText(text)))) {
      ids.push(...this.#pieces(word));
      if (ids.length >= this.context - 2) break;
    }
    return [this.start, ...ids.slice(0, this.context - 2), this.end];
  }

  /** Whether a text fits into the context without truncation. */
  fits(text) {
    let count = 2;
    for (const word of this.split(this.normalize(cleanText(text)))) {
      count += this.#pieces(word).length;
      if (count > this.context) return false;
    }
    return true;
  }

  #pieces(word) {
    const known = this.words.get(word);
    if (known) return known;
    const pieces = this.#merged(byteSymbols(word));
    const ids = pieces.map((piece) => (Object.hasOwn(this.vocab, piece) ? this.vocab[piece] : this.unknown));
    const found = ids.filter((id) => id !== undefined);
    if (this.words.size < KEPT_WORDS) this.words.set(word, found);
    return found;
  }

  /** Merge the pair of lowest rank, leftmost first, until none remains. */
  #merged(symbols) {
    const pieces = [...symbols];
    pieces[pieces.length - 1] += this.suffix;
    for (;;) {
      let best = Infinity, place = -1;
      for (let i = 0; i + 1 < pieces.length; i++) {
        const rank = this.ranks.get(`${pieces[i]} ${pieces[i + 1]}`);
        if (rank < best) [best, place] = [rank, i];
      }
      if (place < 0) return pieces;
      pieces.splice(place, 2, pieces[place] + pieces[place + 1]);
    }
  }
}

function parse(bytes) {
  let file;
  try {
    file = JSON.parse(new TextDecoder().decode(bytes));
  } catch (error) {
    throw new PageError(`tokenizer.json is not JSON: ${error.message}; copy the bundle again`);
  }
  if (typeof file?.model !== "object") throw new PageError("tokenizer.json has no model; copy the bundle again");
  return file;
}

function special(names, known) {
  const found = known.find((name) => Object.hasOwn(names, name));
  if (found === undefined) throw refuse(`no ${known[0]} token`);
  return names[found];
}

/** Whether a normalizer repeats cleanText's work, and would change only characters from HTML entities. */
function onlyCleans(step) {
  if (step == null) return false;
  const steps = step.normalizers ?? [step];
  return steps.every(({ type, content = " " }) => CLEANING.includes(type) && content === " ");
}

/** Return the function, text to text, of the file's "normalizer". */
function normalizer(step) {
  if (step == null) return (text) => text;
  const forms = ["NFC", "NFD", "NFKC", "NFKD"];
  if (step.type === "Sequence") {
    const parts = step.normalizers.map(normalizer);
    return (text) => parts.reduce((changed, part) => part(changed), text);
  }
  if (forms.includes(step.type)) return (text) => text.normalize(step.type);
  if (step.type === "Lowercase") return (text) => text.toLowerCase();
  if (step.type === "Strip") return (text) => text.trim();
  if (step.type === "Replace") {
    const pattern = step.pattern.Regex !== undefined ? regex(step.pattern.Regex) : step.pattern.String;
    return (text) => text.replaceAll(pattern, () => step.content);
  }
  throw refuse(`a normalizer ${step.type}`);
}

/** Return the function, text to words, of the file's "pre_tokenizer". */
function splitter(step) {
  const parts = step?.type === "Sequence" ? step.pretokenizers : [step];
  const clips = parts.some((part) => part?.pattern?.Regex === WORDS);
  const splits = parts.map((part) => {
    if (part?.type === "Split" && part.pattern.Regex && part.behavior === "Removed" && part.invert) {
      return regex(part.pattern.Regex === WORDS ? CASELESS : part.pattern.Regex);
    }
    if (part?.type === "ByteLevel" && !part.add_prefix_space) {
      return !clips && (part.use_regex ?? true) ? regex(BYTE_LEVEL_WORDS) : null;
    }
    throw refuse(`a pre_tokenizer ${part?.type ?? "without a type"}`);
  });
  if (parts.at(-1)?.type !== "ByteLevel") throw refuse("no byte-level step");
  return (text) =>
    splits.filter(Boolean).reduce((words, split) => words.flatMap((word) => word.match(split) ?? []), [text]);
}

function regex(pattern) {
  const blanks = pattern.replaceAll("[^\\s", `[^${BLANKS}`).replaceAll("\\s", `[${BLANKS}]`);
  try {
    return new RegExp(blanks, "gu");
  } catch {
    throw refuse(`the pattern ${pattern}`);
  }
}

const BYTES = byteTable();
const utf8 = new TextEncoder();

/** GPT-2's printable characters for the 256 bytes. */
function byteTable() {
  const kept = (byte) => (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(kept(byte) ? byte : next++));
}

function byteSymbols(word) {
  return Array.from(utf8.encode(word), (byte) => BYTES[byte]);
}
