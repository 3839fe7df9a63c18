// The key browser: keys with a prefix, in order, kept as they are in the store; the chosen one's value beside them.

import { list } from './api.js';
import { bytesOf, parseKey, showKey, toBase64 } from './bytes.js';
import { $, make, reconcile, say, whole } from './dom.js';
import { ValuePane } from './value.js';

const PAGE = 100;
const TYPING_MS = 250;
const REFRESH_MS = 1500;
// A listing with a known end leaves no snapshot open on the node; and this many keys one page has room for.
const REFRESHED_KEYS = 1000;

export class KeyBrowser {
  #keys = [];
  #hasMore = false;
  #prefix = new Uint8Array();
  #chosen = null;
  #revision = null;
  #listedAt = 0;
  #asking = null;
  #timer = 0;
  #pane = new ValuePane((key) => this.#changed(key));

  constructor() {
    $('prefix').addEventListener('input', () => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.search(), TYPING_MS);
    });
    $('prefix').addEventListener('keydown', (event) => {
      if (event.key === 'ArrowDown') this.#walk(event, $('list').querySelector('button'));
      if (event.key === 'Enter') this.search();
    });
    $('list').addEventListener('keydown', (event) => {
      const row = event.target.closest('li');
      if (event.key === 'ArrowDown') this.#walk(event, row?.nextElementSibling?.firstChild);
      if (event.key === 'ArrowUp') this.#walk(event, row?.previousElementSibling?.firstChild ?? $('prefix'));
      if (event.key === 'Home') this.#walk(event, $('list').querySelector('button'));
      if (event.key === 'End') this.#walk(event, $('list').lastElementChild?.firstChild);
    });
    $('more').addEventListener('click', () => this.#more());
    $('new-key').addEventListener('click', () => {
      this.#choose(null);
      this.#pane.create(this.#prefix);
    });
    document.addEventListener('keydown', (event) => {
      const isTyping = event.target.closest?.('input, textarea, dialog');
      if (event.key === '/' && !isTyping && !event.ctrlKey && !event.metaKey && !event.altKey) {
        event.preventDefault();
        $('prefix').focus();
      }
    });
  }

  /** What the node said of itself: whether it lets the page write, and whether anything has changed. */
  take(view) {
    const writes = view.console_writes;
    $('new-key').hidden = !writes;
    say($('keys-mode'), writes ? '' : 'read-only: console.writes is off');
    this.#pane.allow(writes);
    if (view.health.revision === this.#revision || performance.now() - this.#listedAt < REFRESH_MS) return;
    this.#refresh(view.health.revision);
  }

  /** List anew, from the first key with the prefix that is in the field. */
  async search() {
    clearTimeout(this.#timer);
    this.#prefix = parseKey($('prefix').value);
    const prefix = this.#prefix;
    const got = await this.#ask({ prefix, limit: PAGE });
    if (!got) return;
    this.#keys = got.keys;
    this.#hasMore = got.hasMore;
    this.#show();
  }

  async #more() {
    const start = behind(this.#keys.at(-1).bytes);
    const got = await this.#ask({ prefix: this.#prefix, start, limit: PAGE });
    if (!got) return;
    const focus = this.#keys.length;
    this.#keys = [...this.#keys, ...got.keys];
    this.#hasMore = got.hasMore;
    this.#show();
    $('list').children[focus]?.firstChild.focus();
  }

  async #refresh(revision) {
    if (this.#asking || this.#keys.length > REFRESHED_KEYS) return;
    const end = this.#hasMore && this.#keys.length ? behind(this.#keys.at(-1).bytes) : null;
    const got = await this.#ask({ prefix: this.#prefix, end, limit: REFRESHED_KEYS });
    if (!got) return;
    this.#keys = got.keys;
    this.#hasMore ||= got.hasMore;
    this.#revision = revision;
    this.#show();
    this.#pane.refresh();
  }

  /** Ask for keys; null where another question came in between, or nobody answers. */
  async #ask(question) {
    this.#asking?.abort();
    const asking = new AbortController();
    this.#asking = asking;
    try {
      const { answer, isStale } = await list({ ...question, signal: asking.signal });
      const keys = answer.items.map((item) => {
        const bytes = bytesOf(item, 'key');
        return { bytes, id: toBase64(bytes), text: showKey(bytes), revision: item.revision };
      });
      this.isStale = isStale;
      return { keys, hasMore: answer.cursor !== null };
    } catch (error) {
      if (!asking.signal.aborted) say($('listing-note'), error.message);
      return null;
    } finally {
      if (this.#asking === asking) this.#asking = null;
      this.#listedAt = performance.now();
    }
  }

  #show() {
    const count = this.#keys.length;
    const counted = `${this.#hasMore ? 'The first ' : ''}${whole(count)} key${count === 1 ? '' : 's'}`;
    say($('listing-note'), `${count ? counted : 'No key'}${this.isStale ? ', as this node has them: no leader' : ''}`);
    $('more').hidden = !this.#hasMore;
    reconcile($('list'), this.#keys, (key) => key.id, (key) => this.#row(key), (row, key) => {
      const isChosen = this.#chosen?.id === key.id;
      row.firstChild.toggleAttribute('aria-current', isChosen);
      say(row.firstChild.lastChild, `r${key.revision}`);
    });
  }

  #row(key) {
    return make('li', {}, make('button', { type: 'button', title: key.text, click: () => this.#choose(key) },
      make('span', { class: 'key' }, key.text), make('small')));
  }

  /** Move the focus, and show what it is on. */
  #walk(event, target) {
    if (!target) return;
    event.preventDefault();
    target.focus();
    const id = target.closest('li')?.dataset.key;
    if (id) this.#choose(this.#keys.find((key) => key.id === id));
  }

  #choose(key) {
    this.#chosen = key;
    this.#show();
    if (key) this.#pane.open(key.bytes);
  }

  /** The pane has written a key, or null for one that is gone. */
  async #changed(bytes) {
    this.#chosen = bytes && { id: toBase64(bytes), bytes };
    await this.#refresh(null);
    this.#show();
  }
}

/** The first key behind another one. */
function behind(key) {
  const next = new Uint8Array(key.length + 1);
  next.set(key);
  return next;
}
