// Keys and values are bytes. This is how they are written on the page, in JSON and in a path, without losing one.

const strict = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
const utf8 = new TextEncoder();

/** The bytes of a JSON answer's member: its text, or what `<name>_base64` says. */
export function bytesOf(item, name) {
  const text = item[name];
  return text !== undefined ? utf8.encode(text) : fromBase64(item[`${name}_base64`] ?? '');
}

export function fromBase64(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

export function toBase64(bytes) {
  let text = '';
  for (let at = 0; at < bytes.length; at += 8192) text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return btoa(text);
}

/** The text that the bytes are, or null where they are not UTF-8. */
export function textOf(bytes) {
  try {
    return strict.decode(bytes);
  } catch {
    return null;
  }
}

const ESCAPES = { '\\': '\\\\', '\n': '\\n', '\r': '\\r', '\t': '\\t' };
// What cannot be seen, or would turn the order of what is around it: spelled out.
const UNSEEN = /[\\\p{Cc}\p{Cf}\p{Co}\p{Cn}\p{Zl}\p{Zp}]/gu;

const spelled = (text) => text.replace(UNSEEN, (c) => ESCAPES[c] ?? [...utf8.encode(c)].map(hexEscape).join(''));
const hexEscape = (byte) => `\\x${byte.toString(16).padStart(2, '0')}`;

/** How a key is written: as text, with `\xNN` for what is no text. `parseKey` is the way back. */
export function showKey(bytes) {
  const whole = textOf(bytes);
  if (whole !== null) return spelled(whole);
  let shown = '';
  for (let at = 0; at < bytes.length;) {
    const length = letterAt(bytes, at);
    shown += length ? spelled(strict.decode(bytes.subarray(at, at + length))) : hexEscape(bytes[at]);
    at += length || 1;
  }
  return shown;
}

/** How many bytes the UTF-8 letter at `at` takes; 0 where there is none. */
function letterAt(bytes, at) {
  const first = bytes[at];
  const length = first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  return textOf(bytes.subarray(at, at + length)) !== null && at + length <= bytes.length ? length : 0;
}

/** The bytes that a text with escapes stands for. A backslash that begins no escape stands for itself. */
export function parseKey(text) {
  const named = { n: 10, r: 13, t: 9, '\\': 92 };
  const bytes = [];
  for (const [part] of text.matchAll(/\\x[0-9a-fA-F]{2}|\\[nrt\\]|[^\\]+|\\/gu)) {
    if (part.length === 4 && part.startsWith('\\x')) bytes.push(parseInt(part.slice(2), 16));
    else if (part.length === 2 && part[0] === '\\') bytes.push(named[part[1]]);
    else bytes.push(...utf8.encode(part));
  }
  return Uint8Array.from(bytes);
}

/** Percent-encoded for a path or a query. Every slash too, so that nobody on the way takes `..` for a parent. */
export function percent(bytes) {
  let out = '';
  for (const byte of bytes) {
    const plain = (byte >= 48 && byte <= 57) || (byte >= 65 && byte <= 90) || (byte >= 97 && byte <= 122);
    out += plain || byte === 45 || byte === 46 || byte === 95 || byte === 126
      ? String.fromCharCode(byte)
      : `%${byte.toString(16).toUpperCase().padStart(2, '0')}`;
  }
  return out;
}

/** Whether a browser can name the key in a path: it drops the segments `.` and `..`, however they are written. */
export function isAddressable(bytes) {
  const text = textOf(bytes);
  return text !== '.' && text !== '..';
}

/** Sixteen bytes a line: offset, hexadecimal, and what is printable ASCII of them. */
export function hexDump(bytes) {
  const lines = [];
  for (let at = 0; at < bytes.length; at += 16) {
    const row = [...bytes.subarray(at, at + 16)];
    const hex = row.map((byte) => byte.toString(16).padStart(2, '0')).join(' ').padEnd(47);
    const seen = row.map((byte) => (byte >= 32 && byte < 127 ? String.fromCharCode(byte) : '·')).join('');
    lines.push(`${at.toString(16).padStart(6, '0')}  ${hex}  ${seen}`);
  }
  return lines.join('\n');
}
