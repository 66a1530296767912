// KL divergences of pairs, in bits per byte: exact where the page carries them, else estimated.

const BEYOND = 1;
const BELOW_NOISE = 2;

const near = {
  width: payload.neighbors.index.shape[1] ?? 0,
  index: decode(payload.neighbors.index),
  kl: decode(payload.neighbors.kl),
  se: decode(payload.neighbors.se),
  flags: decode(payload.neighbors.flags),
  domains: lazy(() => decode(payload.neighbors.domains)),
};
const noise = decode(payload.noise);
const pairs = payload.pairs && {
  kl: lazy(() => decode(payload.pairs.kl)),
  se: lazy(() => decode(payload.pairs.se)),
};
const components = payload.components && {
  rank: payload.components.points.shape[2],
  points: lazy(() => decode(payload.components.points)),
  scale: lazy(() => decode(payload.components.scale)),
  residual: lazy(() => decode(payload.components.residual)),
};

/** Where in `neighbors` a pair stands, or -1. */
function position(row, other) {
  for (let rank = 0; rank < near.width; rank += 1) {
    if (near.index[row * near.width + rank] === other) return row * near.width + rank;
  }
  return -1;
}

function flagsOf(row, other, kl) {
  const unit = 2 * payload.texts.mean_bytes * Math.LN2;
  const floor = (noise[row] ** 2 + noise[other] ** 2) / unit;
  return (kl > payload.beyond ? BEYOND : 0) | (kl < floor ? BELOW_NOISE : 0);
}

/** Each domain's part of a neighbour's KL, bits per byte. */
function partsAt(at) {
  const stored = near.domains();
  const kl = near.kl[at];
  return domains.map((_, d) => (stored[at * domains.length + d] / 255) * kl);
}

/** Each domain's part of a pair's KL from the components, or null if the page has none. */
function partsBetween(row, other) {
  if (!components) return null;
  const { rank } = components;
  const points = components.points();
  const scale = components.scale();
  const residual = components.residual();
  return domains.map((_, d) => {
    let sum = residual[d * K + row] ** 2 + residual[d * K + other] ** 2;
    const a = (d * K + row) * rank;
    const b = (d * K + other) * rank;
    for (let r = 0; r < rank; r += 1) {
      sum += (scale[d * rank + r] * (points[a + r] - points[b + r])) ** 2;
    }
    return sum;
  });
}

function pairCode(row, other) {
  const low = Math.min(row, other);
  const high = Math.max(row, other);
  return low * K - (low * (low + 1)) / 2 + (high - low - 1);
}

function pairKl(row, other) {
  const code = pairs.kl()[pairCode(row, other)];
  return code === 0 ? 0 : Math.exp(payload.pairs.low + (code - 1) * payload.pairs.step);
}

/**
 * The KL of two models.
 *
 * `how` is `exact` (a neighbour), `stored` (all pairs, rounded to a step far below the standard
 * error) or `estimate` (components); null where the page holds nothing about the pair.
 * `parts` add up to `kl`; `rough` says that they are estimated.
 */
function between(row, other) {
  if (row === other) return null;
  let at = position(row, other);
  if (at < 0) at = position(other, row);
  if (at >= 0) {
    const fine = partsBetween(row, other);
    const kl = near.kl[at];
    const exact = fine && Math.abs(sum(fine) - kl) <= 0.002 * kl;
    const parts = exact ? scaled(fine, kl) : partsAt(at);
    return { kl, se: near.se[at], flags: near.flags[at], how: "exact", parts, rough: false };
  }
  const parts = partsBetween(row, other);
  if (pairs) {
    const kl = pairKl(row, other);
    const se = kl * Math.exp(payload.pairs.se_low + pairs.se()[pairCode(row, other)] * payload.pairs.se_step);
    const rough = parts !== null && Math.abs(sum(parts) - kl) > 0.02 * kl;
    return {
      kl, se, flags: flagsOf(row, other, kl), how: "stored", parts: parts && scaled(parts, kl), rough,
    };
  }
  if (!parts) return null;
  const kl = sum(parts);
  return { kl, se: NaN, flags: flagsOf(row, other, kl), how: "estimate", parts, rough: true };
}

const sum = (values) => values.reduce((total, value) => total + value, 0);

function scaled(parts, total) {
  const all = sum(parts);
  return all > 0 ? parts.map((part) => (part * total) / all) : parts;
}

/** The nearest models of one, nearest first. */
function nearest(row) {
  const found = [];
  for (let rank = 0; rank < near.width; rank += 1) {
    const at = row * near.width + rank;
    const other = near.index[at];
    if (other >= K || other === row) continue;
    found.push({ row: other, kl: near.kl[at], se: near.se[at], flags: near.flags[at], parts: partsAt(at) });
  }
  return found;
}

const knowsAll = () => pairs !== null && pairs !== undefined ? true : components !== null && components !== undefined;

/** The KL of one model to all, NaN at itself. */
function fromOne(row) {
  const all = new Float64Array(K);
  for (let other = 0; other < K; other += 1) {
    if (other === row) all[other] = NaN;
    else if (pairs) all[other] = pairKl(row, other);
    else all[other] = sum(partsBetween(row, other));
  }
  for (const found of nearest(row)) all[found.row] = found.kl;
  return all;
}
