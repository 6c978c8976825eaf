// undici's own interface, which is below fetch().

import { createReadStream, statSync } from 'node:fs';
import { Agent, request } from 'undici';
import { follow, pairs, sight } from './plan.mjs';

const dispatcher = new Agent();

await follow(async (url, { method, fields, body, chunked, leaves }) => {
  const headers = { ...fields };
  if (body && !chunked) headers['Content-Length'] = String(statSync(body).size);
  const response = await request(url, {
    method,
    headers,
    dispatcher,
    body: body && createReadStream(body),
    responseHeaders: 'raw',
  });
  if (leaves) {
    response.body.on('error', () => {}).destroy();
    return null;
  }
  return sight(response.statusCode, pairs(response.headers), response.body, () => Object.entries(response.trailers));
});
