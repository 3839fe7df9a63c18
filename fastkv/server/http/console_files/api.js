// What the page asks of the node that serves it. Every address is relative to the page, so a proxy may put it anywhere.

import { percent, toBase64, textOf } from './bytes.js';

const OVERVIEW_TIMEOUT_MS = 3000;
const TIMEOUT_MS = 15000;

/** An answer that says no. `code` is the node's, `status` HTTP's; both are empty where nobody has answered. */
export class Refused extends Error {
  constructor(message, status = 0, code = '', answer = {}) {
    super(message);
    Object.assign(this, { status, code, answer });
  }

  /** Whether the write may have been done all the same. */
  get isUnknown() {
    return this.status === 0 || this.code === 'OUTCOME_UNKNOWN' || this.status === 500;
  }
}

async function ask(path, options = {}, timeoutMs = TIMEOUT_MS) {
  const signals = [AbortSignal.timeout(timeoutMs), ...(options.signal ? [options.signal] : [])];
  let response;
  let answer;
  try {
    const asked = { cache: 'no-store', credentials: 'same-origin', ...options, signal: AbortSignal.any(signals) };
    response = await fetch(new URL(path, document.baseURI), asked);
    answer = await response.json();
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new Refused('The node does not answer.');
  }
  if (!response.ok) throw new Refused(answer.error ?? response.statusText, response.status, answer.code, answer);
  return { answer, etag: response.headers.get('etag') };
}

/** The cluster, as GET /cluster/overview says. */
export const overview = async () => (await ask('cluster/overview', {}, OVERVIEW_TIMEOUT_MS)).answer;

/** Run a read; where there is no leader to confirm it, again as a stale one. `isStale` says which it was. */
async function readable(read) {
  try {
    return { ...(await read('linearizable')), isStale: false };
  } catch (error) {
    if (!(error instanceof Refused) || !['NO_LEADER', 'TIMEOUT'].includes(error.code)) throw error;
    return { ...(await read('stale')), isStale: true };
  }
}

/** A page of keys from `start` to `end` (bytes, null for no bound). */
export function list({ prefix, start, end, limit, cursor, signal }) {
  const query = new URLSearchParams({ keys_only: 'true', limit: String(limit) });
  if (cursor) {
    query.set('cursor', cursor);
    return ask(`kv?${query}`, { signal }).then((got) => ({ ...got, isStale: false }));
  }
  const bytes = Object.entries({ prefix, start, end }).filter(([, value]) => value?.length);
  const bounds = bytes.map(([name, value]) => `&${name}=${percent(value)}`).join('');
  return readable((consistency) => ask(`kv?${query}&consistency=${consistency}${bounds}`, { signal }));
}

/** One key: its value, revision and version, and the ETag to write it by. Refused with KEY_NOT_FOUND without one. */
export function get(key, signal) {
  return readable((consistency) => ask(`kv/${percent(key)}?consistency=${consistency}`, { signal }));
}

/** Store a value where the key is still as `etag` says; null for a key that must not exist. Once, however often. */
export function put(key, value, etag, once) {
  const text = textOf(value);
  const body = JSON.stringify(text !== null ? { value: text } : { value_base64: toBase64(value) });
  const headers = { 'Content-Type': 'application/json', ...condition(etag), 'Idempotency-Key': once };
  return ask(`kv/${percent(key)}`, { method: 'PUT', headers, body });
}

/** Delete the key where it is still as `etag` says. */
export function remove(key, etag, once) {
  return ask(`kv/${percent(key)}`, { method: 'DELETE', headers: { ...condition(etag), 'Idempotency-Key': once } });
}

const condition = (etag) => (etag === null ? { 'If-None-Match': '*' } : { 'If-Match': etag });

/** A name for one write, which no other has. */
export function onceKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, '0')).join('');
}
