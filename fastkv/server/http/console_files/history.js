// What the page remembers: counters become rates, and buckets become percentiles, over the times of two looks.

const SAMPLES = 900;
const RATE_MS = 2500;
const LATENCY_MS = 5000;
const WINDOW_MS = 8000;
const GAP_MS = 5000;

/** One value that `q` of what was counted does not exceed, interpolated within its bucket; null where nothing was. */
export function quantile(bounds, counts, q) {
  const total = counts.reduce((sum, count) => sum + count, 0);
  if (!total) return null;
  let before = 0;
  for (const [at, count] of counts.entries()) {
    if (before + count >= q * total && count) {
      if (at >= bounds.length) return bounds.at(-1);
      const low = at ? bounds[at - 1] : 0;
      return low + ((q * total - before) / count) * (bounds[at] - low);
    }
    before += count;
  }
  return bounds.at(-1);
}

const sum = (counts) => counts.reduce((total, count) => total + count, 0);
const minus = (later, earlier) => later.map((count, at) => count - earlier[at]);
const plus = (one, other) => (one ? one.map((count, at) => count + other[at]) : other);

/** The counters of one member, as of several moments. */
class Counters {
  looks = [];

  take(at, load) {
    const last = this.looks.at(-1);
    if (last && at <= last.at) return;
    if (!load) {
      this.looks = [];
      return;
    }
    if (last && (sum(load.reads) < sum(last.load.reads) || sum(load.writes) < sum(last.load.writes))) this.looks = [];
    this.looks.push({ at, load });
    while (this.looks[0].at < at - WINDOW_MS) this.looks.shift();
  }

  /** What was counted in about the last `ms`; null where that is not known. */
  since(ms) {
    const last = this.looks.at(-1);
    if (!last) return null;
    const first = this.looks.findLast((look) => look.at <= last.at - ms) ?? this.looks[0];
    if (first === last) return null;
    return {
      seconds: (last.at - first.at) / 1000,
      reads: minus(last.load.reads, first.load.reads),
      writes: minus(last.load.writes, first.load.writes),
      failed: last.load.failed - first.load.failed,
    };
  }

  get rates() {
    const counted = this.since(RATE_MS);
    if (!counted) return null;
    const each = (count) => Math.max(0, count) / counted.seconds;
    return { reads: each(sum(counted.reads)), writes: each(sum(counted.writes)), failed: each(counted.failed) };
  }
}

/** The samples of the last quarter of an hour, one for each answer of the node. */
export class History {
  samples = [];
  #members = new Map();

  take(view) {
    const sample = { at: view.now_ms, reads: null, writes: null, failed: null };
    let reads = null;
    let writes = null;
    for (const member of view.members) {
      if (!this.#members.has(member.id)) this.#members.set(member.id, new Counters());
      const counters = this.#members.get(member.id);
      counters.take(member.counted_at_ms ?? view.now_ms, member.load);
      const rates = counters.rates;
      for (const name of rates ? ['reads', 'writes', 'failed'] : []) sample[name] = (sample[name] ?? 0) + rates[name];
      const recent = counters.since(LATENCY_MS);
      if (recent) [reads, writes] = [plus(reads, recent.reads), plus(writes, recent.writes)];
    }
    for (const [name, counts] of [['read', reads], ['write', writes]]) {
      for (const percent of [50, 99]) {
        sample[`${name}${percent}`] = counts && quantile(view.bounds_ms, counts, percent / 100);
      }
    }
    if (this.latest && sample.at <= this.latest.at) this.samples = [];      // the clock was set back
    this.samples.push(sample);
    if (this.samples.length > SAMPLES) this.samples.shift();
  }

  get latest() {
    return this.samples.at(-1);
  }

  ratesOf(id) {
    return this.#members.get(id)?.rates ?? null;
  }

  /** The samples from a moment on. Where the page has not looked for a while, one of nothing stands between. */
  from(start) {
    const shown = [];
    for (const sample of this.samples) {
      if (sample.at < start) continue;
      if (shown.length && sample.at - shown.at(-1).at > GAP_MS) shown.push({ at: sample.at - 1 });
      shown.push(sample);
    }
    return shown;
  }
}
