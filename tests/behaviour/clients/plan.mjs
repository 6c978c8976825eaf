// What the clients for Node.js share: a plan on the input, what was seen on the output (see real_clients.py).

import { createHash } from 'node:crypto';
import { text } from 'node:stream/consumers';

// `exchange(url, call)` makes one call and returns what it saw, or null if it left in the middle.
export async function follow(exchange) {
  const { url, calls, at_once } = JSON.parse(await text(process.stdin));
  const seen = [];
  if (at_once) {
    seen.push(...(await Promise.all(calls.map((call) => exchange(url + call.target, call)))));
  } else {
    for (const call of calls) seen.push(await exchange(url + call.target, call));
  }
  console.log(JSON.stringify(seen.filter(Boolean)));
  process.exit();
}

export async function sight(status, fields, body, trailers = () => []) {
  const hash = createHash('sha256');
  let length = 0;
  for await (const piece of body) {
    hash.update(piece);
    length += piece.length;
  }
  return { status, fields, length, digest: hash.digest('hex'), trailers: trailers() };
}

// A flat list of names and values, as both of Node's clients give it.
export function pairs(flat) {
  return flat.flatMap((name, index) => (index % 2 ? [] : [[String(name), flat[index + 1].toString('latin1')]]));
}
