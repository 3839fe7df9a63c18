// Who led when: a lane for each member, a bar for each leadership, and a stripe where nobody led.

import { $, clock, draw, duration, make, reconcile, say } from './dom.js';

const MINUTE_MS = 60_000;
// Milliseconds, name, and minutes between two marks.
const SPANS = [[5 * MINUTE_MS, '5 min', 1], [60 * MINUTE_MS, '1 h', 10], [1440 * MINUTE_MS, '24 h', 240]];
const LANE = 26;
const EDGE = { top: 4, right: 8, bottom: 22, left: 8 };
const SHOWN_CHANGES = 6;

export class Timeline {
  #span = SPANS[0][0];
  #view = null;
  #width = 0;

  constructor() {
    this.host = $('timeline');
    this.svg = draw('svg', { role: 'img', 'aria-labelledby': 'leaders-title' });
    this.host.append(this.svg);
    const buttons = SPANS.map(([span, label]) => make('button', {
      type: 'button', 'aria-pressed': String(span === this.#span), click: () => this.#choose(span),
    }, label));
    $('spans').append(...buttons);
    this.buttons = buttons;
    new ResizeObserver(() => {
      if (this.#width !== this.host.clientWidth) this.#draw();
    }).observe(this.host);
  }

  show(view) {
    this.#view = view;
    this.#draw();
    this.#list();
  }

  #choose(span) {
    this.#span = span;
    for (const [at, button] of this.buttons.entries()) {
      button.setAttribute('aria-pressed', String(SPANS[at][0] === span));
    }
    this.#draw();
  }

  /** The leaderships that reach into the span, each with its end. */
  #pieces(start, end) {
    const all = this.#view.leaderships;
    return all
      .map((one, at) => ({ ...one, until: all[at + 1]?.at_ms ?? end }))
      .filter((one) => one.until >= start)
      .map((one) => ({ ...one, at_ms: Math.max(one.at_ms, start) }));
  }

  #draw() {
    this.#width = this.host.clientWidth;
    if (!this.#view || !this.#width) return;
    const end = this.#view.now_ms;
    const start = end - this.#span;
    const pieces = this.#pieces(start, end);
    const led = pieces.map((piece) => piece.leader).filter(Boolean);
    const lanes = [...new Set([...this.#view.members.map((member) => member.id), ...led])];
    const names = Math.min(130, 16 + 7.2 * Math.max(...lanes.map((lane) => lane.length)));
    const left = EDGE.left + names;
    const height = EDGE.top + lanes.length * LANE + EDGE.bottom;
    const x = (at) => left + ((at - start) / this.#span) * (this.#width - left - EDGE.right);
    this.svg.setAttribute('width', this.#width);
    this.svg.setAttribute('height', height);
    this.svg.replaceChildren(
      ...lanes.flatMap((lane, at) => this.#lane(lane, at, left, pieces, x)),
      ...pieces.filter((piece) => !piece.leader).map((piece) => this.#nobody(piece, lanes.length, x)),
      ...this.#times(start, end, height, x),
    );
  }

  #lane(lane, at, left, pieces, x) {
    const y = EDGE.top + at * LANE;
    const shapes = [
      draw('text', { class: 'name', x: EDGE.left, y: y + 17 }, lane.length > 16 ? `${lane.slice(0, 15)}…` : lane),
      bar('lane', left, this.#width - EDGE.right - left, y),
    ];
    for (const piece of pieces.filter((one) => one.leader === lane)) {
      const width = Math.max(2, x(piece.until) - x(piece.at_ms) - 1);
      const told = `${lane} led in term ${piece.term} for ${duration(piece.until - piece.at_ms)}`;
      shapes.push(bar('led', x(piece.at_ms), width, y, draw('title', {}, told)));
      if (width > 64) {
        shapes.push(draw('text', { class: 'in-bar', x: x(piece.at_ms) + 8, y: y + 17 }, `term ${piece.term}`));
      }
    }
    return shapes;
  }

  #nobody(piece, lanes, x) {
    const width = Math.max(3, x(piece.until) - x(piece.at_ms));
    return draw('rect', { class: 'nobody', x: x(piece.at_ms), y: EDGE.top, width, height: lanes * LANE },
      draw('title', {}, `no known leader for ${duration(piece.until - piece.at_ms)}`));
  }

  #times(start, end, height, x) {
    const apart = SPANS.find(([span]) => span === this.#span)[2] * MINUTE_MS * (this.#width < 480 ? 2 : 1);
    const zone = new Date(end).getTimezoneOffset() * MINUTE_MS;
    const texts = [draw('text', { x: x(end), y: height - 6, 'text-anchor': 'end' }, 'now')];
    for (let at = Math.ceil((start - zone) / apart) * apart + zone; x(at) < x(end) - 56; at += apart) {
      if (x(at) < x(start) + 14) continue;
      texts.push(draw('text', { x: x(at), y: height - 6, 'text-anchor': 'middle' }, clock(at).slice(0, 5)));
    }
    return texts;
  }

  /** The latest changes in words, the newest first. */
  #list() {
    const all = this.#view.leaderships;
    const changes = all
      .map((one, at) => ({ ...one, id: `${one.at_ms}/${one.term}/${one.leader}`, before: all[at - 1] }))
      .filter((one, at) => one.leader || at === all.length - 1)
      .slice(-SHOWN_CHANGES)
      .reverse();
    reconcile($('changes'), changes, (one) => one.id, () => make('li', {}, make('time'), make('span')), (row, one) => {
      say(row.firstChild, clock(one.at_ms));
      say(row.lastChild, told(one));
    });
  }
}

const bar = (kind, x, width, y, ...inside) => draw('rect', {
  class: kind, x, y: y + 3, width, height: LANE - 6, rx: 4,
}, ...inside);

function told(one) {
  if (!one.leader) return 'no leader';
  const gap = one.before && !one.before.leader ? one.at_ms - one.before.at_ms : 0;
  const first = one.before ? '' : ', the first that this node has seen since it started';
  return `${one.leader} leads in term ${one.term}${gap ? `, after ${duration(gap)} without a known leader` : ''}${first}`;
}
