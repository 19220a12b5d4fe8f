// Numbers, sizes, times and intervals as text.

const PER_MS = { s: 1 / 1000, ms: 1, us: 1000, ns: 1_000_000 };

/** Milliseconds of a timestamp in a unit of the API. */
export const toMs = (ts, unit) => ts / PER_MS[unit];

/** A timestamp of a unit, of milliseconds. */
export const fromMs = (ms, unit) => Math.round(ms * PER_MS[unit]);

/** RFC 3339 in UTC, to the second, or to the minute where it is whole. */
export function time(ms) {
  if (ms === null || ms === undefined || !Number.isFinite(ms)) return "";
  const date = new Date(ms);
  if (Number.isNaN(date.getTime())) return "";
  return date.toISOString().replace("T", " ").replace(/(:00)?\.000Z$/, "").replace("Z", "");
}

/** Order of the rows of a series, as its registration has it. */
export const order = (rule) => (typeof rule === "string" ? rule : `unique ${rule.unique.join(", ")}`);

/** A value of a registration: a name, or an object. */
export const named = (value) => (typeof value === "object" && value !== null ? JSON.stringify(value) : value);

export const number = (value) => (value === null || value === undefined ? "" : Number(value).toLocaleString("en"));

export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  let left = value;
  while (left >= 1024 && at < units.length - 1) {
    left /= 1024;
    at += 1;
  }
  return `${at === 0 ? left : left.toFixed(1)} ${units[at]}`;
}

export function percent(ratio) {
  if (ratio === null || ratio === undefined) return "";
  // Only what is complete is 100 %.
  return `${(Math.floor(ratio * 10_000) / 100).toFixed(2)} %`;
}

/** A span of time in its largest unit. */
export function span(ms) {
  const units = [["d", 86_400_000], ["h", 3_600_000], ["min", 60_000], ["s", 1000]];
  const [name, length] = units.find(([, length]) => Math.abs(ms) >= length) ?? ["ms", 1];
  return `${Number((ms / length).toFixed(1)).toLocaleString("en")} ${name}`;
}

/** Lengths of buckets, with their approximate milliseconds. */
export const INTERVALS = [
  ["1s", 1000], ["5s", 5000], ["15s", 15_000], ["30s", 30_000], ["1m", 60_000], ["5m", 300_000], ["15m", 900_000],
  ["30m", 1_800_000], ["1h", 3_600_000], ["2h", 7_200_000], ["4h", 14_400_000], ["8h", 28_800_000],
  ["1d", 86_400_000], ["1w", 604_800_000], ["1M", 2_629_800_000], ["1q", 7_889_400_000], ["1y", 31_557_600_000],
];

/** The shortest interval that makes at most `count` buckets of a span, and is no shorter than `least`. */
export function intervalFor(spanMs, count, least = 0) {
  const fits = ([, ms]) => ms >= least && spanMs / ms <= count;
  return INTERVALS.find(fits) ?? INTERVALS[INTERVALS.length - 1];
}
