// The value of one key: shown as text, hexadecimal or base64; edited and deleted where the node lets the page write.
//
// Every write names the revision that was shown, so that nothing is overwritten that nobody has seen, and has a name of
// its own, so that it can be sent again where its answer was lost.

import { Refused, get, onceKey, put, remove } from './api.js';
import { bytesOf, fromBase64, hexDump, isAddressable, parseKey, showKey, textOf, toBase64 } from './bytes.js';
import { $, make, say, size, whole } from './dom.js';

const SHOWN_BYTES = 65_536;
const VIEWS = { Text: (bytes) => textOf(bytes), Hex: hexDump, Base64: toBase64 };

/** Whether a text field gives back these bytes as they are: it knows no carriage return. */
const isPlain = (bytes) => textOf(bytes) !== null && !/[\r\0]/.test(textOf(bytes));

export class ValuePane {
  #host = $('value');
  #key = null;
  #shown = null;
  #view = 'Text';
  #writes = false;
  #form = null;
  #loading = null;
  #onWritten;

  /** `onWritten(key)` is told of what this pane has written, `onWritten(null)` of what it has deleted. */
  constructor(onWritten) {
    this.#onWritten = onWritten;
    this.#empty();
  }

  /** Whether the page may write. */
  allow(writes) {
    if (writes === this.#writes) return;
    this.#writes = writes;
    if (this.#shown && !this.#form) this.#show();
  }

  /** Show a key's value. */
  async open(key) {
    this.#key = key;
    this.#form = null;
    await this.#load();
  }

  /** Something in the store has changed: look again. What is being edited stays as it is. */
  async refresh() {
    if (this.#key) await this.#load(true);
  }

  async #load(isAgain = false) {
    this.#loading?.abort();
    const loading = new AbortController();
    this.#loading = loading;
    const key = this.#key;
    try {
      const { answer, etag, isStale } = await this.#read(key, loading.signal);
      const isSame = isAgain && this.#shown?.etag === etag && this.#shown.isStale === isStale;
      if (isSame || key !== this.#key) return;
      const { revision, version } = answer;
      if (this.#form) {
        if (etag !== this.#shown?.etag) this.#note('bad', `Somebody else has changed it: revision ${revision}.`);
        return;
      }
      this.#shown = { bytes: bytesOf(answer, 'value'), etag, isStale, revision, version };
      this.#show();
    } catch (error) {
      if (loading.signal.aborted || key !== this.#key) return;
      if (this.#form) this.#note('bad', error.code === 'KEY_NOT_FOUND' ? 'Deleted by somebody else.' : error.message);
      else this.#empty(error.code === 'KEY_NOT_FOUND' ? 'The key does not exist any more.' : error.message, 'bad');
    }
  }

  async #read(key, signal) {
    if (isAddressable(key)) return get(key, signal);
    throw new Refused(`A browser cannot ask for the key ${showKey(key)}: it takes it for a directory. Use the shell.`);
  }

  // -- showing -------------------------------------------------------------------------------------------------------

  #empty(text = 'Choose a key to see its value.', tone = '') {
    this.#shown = null;
    const name = this.#key && tone ? [make('h3', { class: 'key' }, showKey(this.#key))] : [];
    this.#fill(...name, make('p', { class: `nothing ${tone}` }, text));
  }

  #fill(...children) {
    const focused = this.#host.contains(document.activeElement) ? document.activeElement.dataset.role : null;
    this.#host.replaceChildren(...children.filter(Boolean));
    if (focused) this.#host.querySelector(`[data-role="${focused}"]`)?.focus();
  }

  #show() {
    const { bytes, revision, version, isStale } = this.#shown;
    const isText = textOf(bytes) !== null;
    const view = isText || this.#view !== 'Text' ? this.#view : 'Hex';
    const facts = [`revision ${whole(revision)}`, `version ${whole(version)}`, size(bytes.length),
      isText ? 'UTF-8' : 'binary', ...(isStale ? ['this node’s own copy: no leader'] : [])];
    const part = bytes.subarray(0, SHOWN_BYTES);
    // A cut may go through a letter: at most three bytes of it.
    const cut = view === 'Text' && bytes.length > SHOWN_BYTES ? wholeLetters(part) : part;
    this.#fill(
      make('h3', { class: 'key' }, showKey(this.#key)),
      make('p', { class: 'note' }, facts.join(' · ')),
      make('div', { class: 'bar' }, this.#choice(view, isText), this.#writes ? this.#actions() : null),
      make('pre', { tabindex: 0, 'aria-label': `The value as ${view}` }, VIEWS[view](cut)),
      bytes.length ? null : make('p', { class: 'nothing' }, 'The value is empty.'),
      bytes.length > cut.length && make('p', { class: 'note' }, `The first ${size(cut.length)} of it.`),
    );
  }

  #choice(chosen, isText) {
    const choose = (name) => {
      this.#view = name;
      this.#show();
    };
    return make('div', { class: 'choice', role: 'group', 'aria-label': 'Show as' },
      ...Object.keys(VIEWS).map((name) => make('button', {
        type: 'button', 'data-role': name, 'aria-pressed': String(name === chosen), click: () => choose(name),
        disabled: name === 'Text' && !isText,
      }, name)));
  }

  #actions() {
    return make('div', { class: 'actions' },
      make('button', { type: 'button', 'data-role': 'edit', click: () => this.#edit() }, 'Edit'),
      make('button', { type: 'button', 'data-role': 'delete', class: 'danger', click: () => this.#ask() }, 'Delete'));
  }

  #note(tone, text) {
    const note = this.#host.querySelector('[data-role="note"]');
    note.className = `notice ${tone}`;
    say(note, text);
  }

  // -- writing -------------------------------------------------------------------------------------------------------

  /** A form for a key that does not exist yet. */
  create(prefix) {
    this.#key = this.#shown = null;
    const name = make('input', { id: 'new-name', autocomplete: 'off', spellcheck: 'false', required: true });
    name.value = showKey(prefix);
    this.#openForm('New key', [make('label', { for: 'new-name' }, 'Key'), name], new Uint8Array(), null,
      () => parseKey(name.value));
    name.focus();
  }

  #edit() {
    const { bytes, etag } = this.#shown;
    this.#openForm(showKey(this.#key), [], bytes, etag, () => this.#key);
    this.#host.querySelector('textarea').focus();
  }

  #openForm(title, fields, bytes, etag, keyOf) {
    const isText = isPlain(bytes);
    const area = make('textarea', { id: 'edited', rows: 10, spellcheck: 'false' });
    area.value = isText ? textOf(bytes) : toBase64(bytes);
    let once = onceKey();
    area.addEventListener('input', () => { once = onceKey(); });
    const save = async () => {
      const value = this.#entered(area.value, isText);
      const key = keyOf();
      if (value && key.length) await this.#write(() => put(key, value, etag, once), key);
    };
    this.#form = make('form', {
      submit: (event) => {
        event.preventDefault();
        save();
      },
      keydown: (event) => {
        if (event.key === 'Escape') this.#cancel();
        if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) save();
      },
    },
    make('h3', { class: 'key' }, title), ...fields,
    make('label', { for: 'edited' }, isText ? 'Value, as text' : 'Value, as base64'), area,
    make('p', { class: 'notice', role: 'status', 'data-role': 'note' }),
    make('div', { class: 'actions' }, make('button', { type: 'submit', class: 'main' }, 'Save'),
      make('button', { type: 'button', click: () => this.#cancel() }, 'Cancel')));
    this.#host.replaceChildren(this.#form);
  }

  /** The bytes that were entered, or null where they are none. */
  #entered(text, isText) {
    try {
      if (isText && text.isWellFormed?.() === false) throw new TypeError();
      return isText ? new TextEncoder().encode(text) : fromBase64(text);
    } catch {
      this.#note('bad', isText ? 'That is no valid text.' : 'That is not base64.');
      return null;
    }
  }

  #cancel() {
    this.#form = null;
    if (this.#key) this.#load();
    else this.#empty();
    this.#host.querySelector('[data-role="edit"]')?.focus();
  }

  #ask() {
    const dialog = $('confirm');
    const { etag } = this.#shown;
    const once = onceKey();
    say($('confirm-text'), `Delete ${showKey(this.#key)}?`);
    $('confirm-yes').onclick = () => {
      dialog.close();
      this.#delete(etag, once);
    };
    $('confirm-no').onclick = () => dialog.close();
    dialog.showModal();
    $('confirm-no').focus();
  }

  async #delete(etag, once) {
    const key = this.#key;
    this.#form = make('div', {}, make('h3', { class: 'key' }, showKey(key)),
      make('p', { class: 'notice', role: 'status', 'data-role': 'note' }, 'Deleting'),
      make('div', { class: 'actions' },
        make('button', { type: 'button', click: () => this.#delete(etag, once) }, 'Try again'),
        make('button', { type: 'button', click: () => this.#cancel() }, 'Show the value')));
    this.#host.replaceChildren(this.#form);
    await this.#write(() => remove(key, etag, once), null);
  }

  /** Carry a write out; `written` is the key to show afterwards, null for none. */
  async #write(send, written) {
    const form = this.#form;
    if (form.dataset.busy) return;
    form.dataset.busy = 'yes';
    try {
      await send();
      if (this.#form === form) {
        this.#form = null;
        this.#key = written;
        if (written) await this.#load();
        else this.#empty('Deleted.');
      }
      this.#onWritten(written);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      if (this.#form === form) this.#note('bad', refusal(error));
    } finally {
      delete form.dataset.busy;
    }
  }
}

/** What a refused write means. */
function refusal(error) {
  if (error.code === 'PRECONDITION_FAILED') {
    const now = error.answer.revision;
    return `Nothing was changed: ${now ? `the key is at revision ${now} by now` : 'the key does not exist any more'}.`;
  }
  if (error.isUnknown) return `${error.message} It may or may not have been done; trying again does it once.`;
  return `Nothing was changed: ${error.message}`;
}

/** Bytes without a letter that is cut off at their end. */
function wholeLetters(bytes) {
  for (let less = 0; less < 4; less += 1) {
    const part = bytes.subarray(0, bytes.length - less);
    if (textOf(part) !== null) return part;
  }
  return bytes;
}
