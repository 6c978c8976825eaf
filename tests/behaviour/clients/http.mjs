// Node's http module.

import { once } from 'node:events';
import { createReadStream, statSync } from 'node:fs';
import { Agent, request } from 'node:http';
import { follow, pairs, sight } from './plan.mjs';

const agent = new Agent({ keepAlive: true });

await follow(async (url, { method, fields, body, chunked, leaves }) => {
  const headers = { ...fields };
  if (body && !chunked) headers['Content-Length'] = statSync(body).size;
  const outgoing = request(url, { method, headers, agent });
  const answered = once(outgoing, 'response');
  if (headers.Expect) {
    outgoing.flushHeaders();
    await once(outgoing, 'continue');
  }
  body ? createReadStream(body).pipe(outgoing) : outgoing.end();
  const [response] = await answered;
  if (leaves) {
    response.destroy();
    return null;
  }
  return sight(response.statusCode, pairs(response.rawHeaders), response, () => pairs(response.rawTrailers));
});
