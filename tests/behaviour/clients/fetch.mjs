// The fetch() that Node.js has built in.

import { createReadStream, readFileSync } from 'node:fs';
import { Readable } from 'node:stream';
import { follow, sight } from './plan.mjs';

await follow(async (url, { method, fields, body, chunked, leaves }) => {
  const options = { method, headers: fields, redirect: 'manual' };
  if (body && chunked) {
    options.body = Readable.toWeb(createReadStream(body));
    options.duplex = 'half';
  } else if (body) {
    options.body = readFileSync(body);
  }
  const response = await fetch(url, options);
  if (leaves) {
    await response.body.cancel();
    return null;
  }
  return sight(response.status, [...response.headers], response.body ?? []);
});
