// The models of the map: names, columns of models.tsv, who comes from whom.

const ARRAYS = {
  u1: Uint8Array, u2: Uint16Array, u4: Uint32Array,
  i2: Int16Array, i4: Int32Array, f4: Float32Array, f8: Float64Array,
};

/** A typed array from base64; little-endian, as every machine that runs a browser is. */
function decode(packed) {
  const text = atob(packed.data);
  const bytes = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at += 1) bytes[at] = text.charCodeAt(at);
  return new ARRAYS[packed.dtype](bytes.buffer);
}

const names = payload.models;
const K = names.length;
const place = { x: decode(payload.layout.x), y: decode(payload.layout.y) };
const rowOf = new Map(names.map((name, row) => [name, row]));
const domains = payload.texts.domains;
const domainShare = domains.map((domain) => domain.share ?? domain.n / Math.max(1, payload.texts.n));
const selection = payload.selection;
const responses = payload.texts.responses === true;
const PER_BYTE = responses ? "bits per byte of the response" : "bits per byte";
const UNIT = responses ? PER_BYTE : "bits/byte";
const added = new Set(selection?.added);

const columns = new Map();
for (const packed of payload.columns) {
  const column = { ...packed };
  if (packed.codes) column.codes = decode(packed.codes);
  if (packed.kind === "number" || packed.kind === "date") column.values = decode(packed.values);
  columns.set(packed.name, column);
}
/** The column that says how well texts are predicted, or how much prompts help; and its unit. */
const BITS = payload.texts.pmi === true ? "pmi_bits_per_byte" : "bits_per_byte";
const BITS_UNIT = BITS === "bits_per_byte" ? PER_BYTE : columns.get(BITS)?.label;
if (responses && columns.has("bits_per_byte")) columns.get("bits_per_byte").label = PER_BYTE;

/** A cell as text, a number (dates in days since 1970), or null if unknown. */
function cell(name, row) {
  const column = columns.get(name);
  if (!column) return null;
  if (column.kind === "category") return column.levels[column.codes[row]] || null;
  const value = column.values[row];
  if (column.kind === "text") return value || null;
  return Number.isFinite(value) ? value : null;
}

/** As many decimals for all numbers of a column as its largest needs for four digits. */
function digitsOf(name) {
  const column = columns.get(name);
  if (!column.digits) {
    const known = column.values.filter(Number.isFinite);
    const most = known.reduce((largest, value) => Math.max(largest, Math.abs(value)), 1e-6);
    const places = known.every(Number.isInteger) ? 0 : Math.max(0, Math.min(8, 4 - Math.ceil(Math.log10(most))));
    column.digits = { minimumFractionDigits: places, maximumFractionDigits: places };
  }
  return column.digits;
}

/** A cell as it is shown. */
function shown(name, row) {
  const value = cell(name, row);
  if (value === null) return "";
  const { kind, log } = columns.get(name);
  if (kind === "date") return day(value);
  if (kind === "number") {
    if (log || Math.abs(value) >= 1e6) return short(value);
    return value.toLocaleString("en", digitsOf(name));
  }
  return value;
}

/** A cell as models.tsv has it. */
function raw(name, row) {
  const value = cell(name, row);
  if (value === null) return "";
  if (columns.get(name).kind === "date") {
    const moment = new Date(Math.round(value * 86400000)).toISOString();
    return moment.endsWith("T00:00:00.000Z") ? moment.slice(0, 10) : moment.replace(".000Z", "Z");
  }
  return String(value);
}

const children = new Map();
const parentsOf = new Map();
for (const [parent, child] of payload.parents) {
  children.set(parent, [...(children.get(parent) ?? []), child]);
  parentsOf.set(child, [...(parentsOf.get(child) ?? []), parent]);
}

/** What the search looks at: all words of a model that people know. */
const haystack = lazy(() => {
  const searched = [...columns.values()].filter(
    ({ kind, name }) => kind !== "number" && kind !== "date" && name !== "commit",
  );
  return names.map((name, row) =>
    [name, ...searched.map((column) => cell(column.name, row) ?? "")].join("\n").toLowerCase(),
  );
});

/** Rows that hold every word, those whose name begins with the first word before others. */
function search(query) {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return null;
  const hay = haystack();
  const found = [];
  for (let row = 0; row < K; row += 1) {
    if (words.every((word) => hay[row].includes(word))) found.push(row);
  }
  const rank = (row) => {
    const name = names[row].toLowerCase();
    const at = name.indexOf(words[0]);
    if (name === words.join(" ")) return 0;
    if (at === 0 || name.slice(at - 2, at) === "--") return 1;
    return at > 0 ? 2 : 3;
  };
  const ranks = new Map(found.map((row) => [row, rank(row)]));
  return found.sort((a, b) => ranks.get(a) - ranks.get(b) || a - b);
}

/** How many of the texts a model was scored on: of a selection's or of all. */
function scoredOn(row) {
  return added.has(row)
    ? `${count(selection.texts)} of ${plural(selection.of, "text")}` : plural(selection?.of ?? payload.texts.n, "text");
}

/** Identity in one line: family, size, date. */
function summary(row) {
  const size = cell("parameters", row);
  return [
    cell("family", row), size === null ? null : `${short(size)} parameters`, shown("created_at", row),
  ].filter(Boolean).join(" · ");
}
