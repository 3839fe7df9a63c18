// The members, the figures on top, and the banners that say what is wrong.

import { $, duration, make, milliseconds, reconcile, say, short, size, whole } from './dom.js';

const UNKNOWN = '–';
const LAG_WARN = 1000;

export function showTiles(view, history) {
  const now = history.latest ?? {};
  const { health } = view;
  const rate = (value) => (value === null || value === undefined ? UNKNOWN : short(value));
  const p99 = now.write99;
  const failing = now.failed ? [`${short(now.failed)} failed a second`, 'bad'] : ['last 5 s', ''];
  const tiles = [
    ['Leader', health.leader ?? 'none', `term ${whole(health.term)}`, health.leader ? '' : 'bad'],
    ['Reads', rate(now.reads), 'a second', ''],
    ['Writes', rate(now.writes), 'a second', ''],
    ['Write p99', p99 === null || p99 === undefined ? UNKNOWN : milliseconds(p99), ...failing],
    ['Keys', whole(health.keys), `revision ${whole(health.revision)}`, ''],
    ['Store', size(view.store_bytes), `${size(view.disk_free_bytes)} of the disk free`, ''],
  ];
  reconcile($('tiles'), tiles, ([name]) => name, ([name]) => make('div', {}, make('dt', {}, name), make('dd'),
    make('dd', { class: 'sub' })), (tile, [, value, sub, tone]) => {
    tile.className = tone;
    say(tile.children[1], value);
    say(tile.children[2], sub);
  });
}

export function showMembers(view, history) {
  const leader = view.members.find((member) => member.id === view.health.leader);
  reconcile($('members'), view.members, (member) => member.id, memberRow, (row, member) => {
    const cells = row.children;
    const isHere = member.id === view.health.node;
    const isLost = member.state === 'Unknown';
    row.className = isLost ? 'lost' : '';
    cells[0].querySelector('.here').hidden = !isHere;
    say(cells[0].querySelector('small'), member.address);
    const chip = cells[1].firstChild;
    chip.className = `chip ${member.state.toLowerCase()}`;
    const kind = member.role === 'leaving' ? ' (leaving)' : '';
    say(chip, isLost ? 'Not heard from' : member.state + kind);
    say(cells[2], isLost ? UNKNOWN : whole(member.term));
    const lag = member.lag;
    say(cells[3], lag === null || lag === undefined ? UNKNOWN : whole(lag));
    cells[3].className = `number${lag > LAG_WARN ? ' bad' : ''}`;
    say(cells[4], roundTrip(member, leader));
    say(cells[5], member.applied_index === null ? UNKNOWN : whole(member.applied_index));
    const rates = isLost ? null : history.ratesOf(member.id);
    say(cells[6], rates ? short(rates.reads) : UNKNOWN);
    say(cells[7], rates ? short(rates.writes) : UNKNOWN);
  });
  const lost = view.members.filter((member) => member.state === 'Unknown').length;
  const counted = `${view.members.length} member${view.members.length === 1 ? '' : 's'}`;
  say($('members-note'), lost ? `${counted}, ${lost} not heard from` : counted);
}

function memberRow(member) {
  // The roles are said, because a narrow screen lays the rows out as cards, and browsers then forget what they are.
  const number = (label) => make('td', { role: 'cell', class: 'number', 'data-label': label });
  return make('tr', { role: 'row' },
    make('th', { role: 'rowheader', scope: 'row' }, make('span', { class: 'id' }, member.id),
      make('span', { class: 'here', title: 'This page comes from it' }, 'this node'), make('small')),
    make('td', { role: 'cell', 'data-label': 'Role' }, make('span', { class: 'chip' })),
    number('Term'), number('Lag'), number('Round trip'), number('Applied'), number('Reads/s'), number('Writes/s'));
}

/** What a heartbeat to the member, or from it to the leader, has to wait for. */
function roundTrip(member, leader) {
  if (leader && member.id === leader.id) return 'leads';
  if (member.state === 'Unknown') return UNKNOWN;
  const ms = leader?.round_trips_ms[member.id] ?? (leader ? member.round_trips_ms[leader.id] : undefined);
  return ms === undefined ? UNKNOWN : milliseconds(ms);
}

/** What to say above everything else. `lostMs` is how long the node has not answered, 0 where it does. */
export function showBanners(view, lostMs) {
  const said = [];
  if (lostMs) {
    const who = view ? view.health.node : 'The node';
    const shown = view ? 'What is shown is what it said last.' : '';
    said.push(['lost', 'bad', `${who} does not answer. Trying again. ${shown}`]);
  } else {
    const { health } = view;
    if (!health.leader) {
      const meanwhile = 'writes wait or are refused, and values are what this node has';
      said.push(['leader', 'bad', `There is no leader: ${meanwhile}.`]);
    }
    const problems = health.problems ?? [];
    said.push(...problems.map((text) => [`problem ${text}`, 'bad', text]));
    const failed = Object.entries(health.checks).filter(([name, passed]) => !passed && name !== 'leader');
    if (failed.length && !problems.length) {
      const names = failed.map(([name]) => name).join(', ');
      said.push(['checks', 'bad', `${health.node} cannot serve everything: ${names} failed. GET /health says more.`]);
    }
    const gone = view.members.filter((member) => member.state === 'Unknown').map((member) => member.id);
    if (gone.length) said.push([`gone ${gone}`, 'warn', `Not heard from: ${gone.join(', ')}.`]);
    const leaders = view.members.filter((member) => member.state === 'Leader');
    if (leaders.length > 1) said.push(['two', 'warn', 'Two members call themselves leader; the older term gives way.']);
    if (health.snapshot) said.push(['snapshot', 'warn', `${health.node} is taking in a snapshot.`]);
  }
  reconcile($('banners'), said, ([key]) => key, ([, tone]) => make('p', { class: `banner ${tone}` }), (banner, one) => {
    say(banner, one[2]);
  });
}

/** The pill in the corner. */
export function showLive(state, answeredMs) {
  const texts = {
    waiting: 'Connecting',
    live: 'Live',
    paused: 'Paused',
    lost: answeredMs === null ? 'No answer' : `Lost for ${duration(answeredMs)}`,
  };
  $('live').dataset.state = state;
  say($('live-text'), texts[state]);
}
