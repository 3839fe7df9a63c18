// The page: asks the node every second, shows what it says, and goes on asking where it says nothing.

import { Refused, overview } from './api.js';
import { Chart } from './chart.js';
import { showBanners, showLive, showMembers, showTiles } from './cluster.js';
import { $, milliseconds, say, short } from './dom.js';
import { History } from './history.js';
import { KeyBrowser } from './keys.js';
import { Timeline } from './timeline.js';

const EVERY_MS = 1000;

const history = new History();
const timeline = new Timeline();
const keys = new KeyBrowser();
const throughput = new Chart($('throughput'), 'Throughput', [
  { name: 'reads', label: 'Reads', tone: 'one', filled: true },
  { name: 'writes', label: 'Writes', tone: 'two', filled: true },
  { name: 'failed', label: 'Failed', tone: 'three', isQuiet: true },
], (value) => short(value));
const latency = new Chart($('latency'), 'Latency', [
  { name: 'read50', label: 'Read p50', tone: 'one', dashed: true },
  { name: 'read99', label: 'Read p99', tone: 'one' },
  { name: 'write50', label: 'Write p50', tone: 'two', dashed: true },
  { name: 'write99', label: 'Write p99', tone: 'two' },
], (value, isTick) => (isTick ? `${+value.toPrecision(3)}` : milliseconds(value)));

let view = null;
let answeredAt = null;
let lostAt = null;
let isPaused = false;
let timer = 0;
let isAsking = false;

async function turn() {
  clearTimeout(timer);
  if (isPaused || isAsking) return;
  isAsking = true;
  try {
    view = await overview();
    answeredAt = performance.now();
    lostAt = null;
    history.take(view);
    show();
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    lostAt ??= performance.now();
  } finally {
    isAsking = false;
    showState();
    if (!isPaused) timer = setTimeout(turn, EVERY_MS);
  }
}

function show() {
  const { health } = view;
  document.title = `${health.leader ? '' : '(no leader) '}${view.cluster} · fastkv console`;
  say($('where'), `${view.cluster}, served by ${health.node}`);
  say($('about'), `fastkv ${view.version}. Everything here is what ${health.node} knows; the page asks no other node.`);
  showTiles(view, history);
  showMembers(view, history);
  const samples = history.from(Chart.start(view.now_ms));
  throughput.show(samples, view.now_ms);
  latency.show(samples, view.now_ms);
  timeline.show(view);
  keys.take(view);
}

function showState() {
  const isLost = lostAt !== null;
  document.body.classList.toggle('stale', isLost || isPaused);
  const sinceMs = answeredAt === null ? null : performance.now() - answeredAt;
  showLive(isPaused ? 'paused' : isLost ? 'lost' : view ? 'live' : 'waiting', sinceMs);
  if (view || isLost) showBanners(view, isLost ? performance.now() - lostAt + 1 : 0);
}

$('pause').addEventListener('click', () => {
  isPaused = !isPaused;
  say($('pause'), isPaused ? 'Resume' : 'Pause');
  showState();
  if (!isPaused) turn();
});
document.addEventListener('visibilitychange', () => {
  if (!document.hidden) turn();
});

turn();
keys.search();
