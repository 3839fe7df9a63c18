// Lines over time, as SVG. Drawn to the pixel and drawn anew when the room changes, so that texts keep their size.

import { clock, draw, make, say } from './dom.js';

const SPAN_MS = 300_000;
const HEIGHT = 190;
const EDGE = { top: 10, right: 8, bottom: 24, left: 46 };

/** The next number of 1, 2, 2.5, 5 times a power of ten. */
function niceStep(rough) {
  const power = 10 ** Math.floor(Math.log10(rough));
  return power * [1, 2, 2.5, 5, 10].find((step) => step * power >= rough * 0.999);
}

/**
 * A chart in `host`. `series` are `{name, label, tone, dashed, filled, isQuiet}`; a quiet one is not drawn while all of it
 * is 0. `format` writes a value. Arrow keys and the pointer choose a moment; the legend then says its values instead of the latest ones.
 */
export class Chart {
  #host;
  #series;
  #format;
  #samples = [];
  #end = 0;
  #chosen = null;
  #width = 0;

  constructor(host, title, series, format) {
    this.#host = host;
    this.#series = series;
    this.#format = format;
    this.moment = make('span', { class: 'moment' });
    this.values = series.map(() => make('b', {}, '–'));
    const legend = make('p', { class: 'legend' }, this.moment, ...series.map((one, at) => make('span', {},
      swatch(one), `${one.label} `, this.values[at])));
    this.svg = draw('svg', { height: HEIGHT, 'aria-hidden': 'true' });
    this.empty = make('p', { class: 'empty', hidden: true }, 'Nothing in these five minutes yet');
    this.plot = make('div', {
      class: 'plot', tabindex: 0, role: 'img', 'aria-label': title,
      pointermove: (event) => this.#point(event.offsetX), pointerleave: () => this.#choose(null),
      keydown: (event) => this.#key(event), blur: () => this.#choose(null),
    }, this.svg, this.empty);
    this.spoken = make('p', { class: 'unseen', 'aria-live': 'polite' });
    this.title = title;
    host.append(legend, this.plot, this.spoken);
    new ResizeObserver(() => this.#resize()).observe(this.plot);
  }

  /** Show samples up to `end`, a moment of the node's clock. */
  show(samples, end) {
    this.#samples = samples;
    this.#end = end;
    if (this.#chosen !== null && this.#chosen < end - SPAN_MS) this.#chosen = null;
    this.#draw();
  }

  static start(end) {
    return end - SPAN_MS;
  }

  #resize() {
    if (this.#width === this.plot.clientWidth) return;
    this.#width = this.plot.clientWidth;
    this.#draw();
  }

  #x = (at) => EDGE.left + ((at - this.#end + SPAN_MS) / SPAN_MS) * (this.#width - EDGE.left - EDGE.right);

  #draw() {
    if (!this.#width || !this.#end) return;
    const known = this.#samples.flatMap((sample) => this.#series.map((one) => sample[one.name] ?? 0));
    const highest = Math.max(...known, 0);
    const step = niceStep(Math.max(highest, 1) / 4);
    const top = step * Math.max(1, Math.ceil(highest / step));
    const y = (value) => HEIGHT - EDGE.bottom - (value / top) * (HEIGHT - EDGE.top - EDGE.bottom);
    this.svg.setAttribute('width', this.#width);
    this.svg.replaceChildren(...this.#grid(top, step, y), ...this.#series.flatMap((one) => this.#line(one, y)),
      ...this.#marker(y));
    this.empty.hidden = this.#samples.some((sample) => this.#series.some((one) => sample[one.name] != null));
    this.#legend();
  }

  #grid(top, step, y) {
    const right = this.#width - EDGE.right;
    const lines = [];
    for (let value = 0; value <= top * 1.001; value += step) {
      lines.push(draw('line', { class: value ? 'grid' : 'axis', x1: EDGE.left, x2: right, y1: y(value), y2: y(value) }),
        draw('text', { x: EDGE.left - 8, y: y(value) + 4, 'text-anchor': 'end' }, this.#format(value, true)));
    }
    const minute = this.#width < 420 ? 120_000 : 60_000;
    for (let at = Math.ceil((this.#end - SPAN_MS) / minute) * minute; at <= this.#end; at += minute) {
      const x = this.#x(at);
      if (x < EDGE.left + 16 || x > right - 16) continue;
      lines.push(draw('line', { class: 'grid', x1: x, x2: x, y1: HEIGHT - EDGE.bottom, y2: HEIGHT - EDGE.bottom + 4 }),
        draw('text', { x, y: HEIGHT - 6, 'text-anchor': 'middle' }, clock(at).slice(0, 5)));
    }
    return lines;
  }

  #line(one, y) {
    const runs = [[]];
    for (const sample of this.#samples) {
      const value = sample[one.name];
      if (value === null || value === undefined) runs.push([]);
      else runs.at(-1).push([this.#x(sample.at).toFixed(1), y(value).toFixed(1)]);
    }
    const shapes = [];
    if (one.isQuiet && !this.#samples.some((sample) => sample[one.name])) return shapes;
    for (const run of runs.filter((points) => points.length)) {
      const path = `M${run.map((point) => point.join(' ')).join('L')}`;
      const [x, height] = run[0];
      if (run.length === 1) shapes.push(draw('circle', { class: `dot ${one.tone}`, cx: x, cy: height, r: 1.5 }));
      if (one.filled && run.length > 1) {
        const area = `${path}L${run.at(-1)[0]} ${y(0)}L${x} ${y(0)}Z`;
        shapes.push(draw('path', { class: `area ${one.tone}`, d: area }));
      }
      shapes.push(draw('path', { class: `line ${one.tone}${one.dashed ? ' dashed' : ''}`, d: path }));
    }
    return shapes;
  }

  #marker(y) {
    const sample = this.#at();
    if (this.#chosen === null || !sample) return [];
    const x = this.#x(sample.at);
    const dots = this.#series.filter((one) => sample[one.name] != null);
    return [draw('line', { class: 'marker', x1: x, x2: x, y1: EDGE.top, y2: HEIGHT - EDGE.bottom }),
      ...dots.map((one) => draw('circle', { class: `dot ${one.tone}`, cx: x, cy: y(sample[one.name]), r: 3.5 }))];
  }

  /** The sample that the legend is about: the chosen one, or the latest. */
  #at() {
    if (this.#chosen === null) return this.#samples.at(-1);
    const near = (sample) => Math.abs(sample.at - this.#chosen);
    return this.#samples.reduce((best, sample) => (!best || near(sample) < near(best) ? sample : best), null);
  }

  #legend() {
    const sample = this.#at();
    say(this.moment, this.#chosen !== null && sample ? clock(sample.at) : 'now');
    for (const [at, one] of this.#series.entries()) {
      const value = sample?.[one.name];
      say(this.values[at], value === null || value === undefined ? '–' : this.#format(value));
    }
    const label = `${this.title}, the last five minutes. ${this.#said()}. Arrow keys read values.`;
    if (this.#chosen === null) this.plot.setAttribute('aria-label', label);
  }

  #said() {
    return this.#series.map((one, at) => `${one.label} ${this.values[at].textContent}`).join(', ');
  }

  #choose(moment) {
    this.#chosen = moment;
    this.#draw();
  }

  #point(x) {
    const inner = this.#width - EDGE.left - EDGE.right;
    this.#choose(this.#end - SPAN_MS + (Math.min(Math.max(x - EDGE.left, 0), inner) / inner) * SPAN_MS);
  }

  #key(event) {
    const steps = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };
    if (event.key === 'Escape') this.#choose(null);
    if (!(event.key in steps) || !this.#samples.length) return;
    event.preventDefault();
    const now = this.#samples.indexOf(this.#at());
    const to = Math.min(Math.max(now + steps[event.key], 0), this.#samples.length - 1);
    this.#choose(this.#samples[to].at);
    say(this.spoken, `${this.moment.textContent}: ${this.#said()}`);
  }
}

/** A bit of a series' line, for a legend. */
function swatch(one) {
  return draw('svg', { class: 'swatch', width: 18, height: 8, 'aria-hidden': 'true' },
    draw('line', { class: `line ${one.tone}${one.dashed ? ' dashed' : ''}`, x1: 1, x2: 17, y1: 4, y2: 4 }));
}
