// A certified OpenID provider on loopback that gives JWT access tokens to clients (RFC 6749 §4.4, RFC 9068).
//
// Its one argument is JSON: {clients: [client metadata], lifetime: seconds}. It writes a line for the issuer's URL, and
// one for each token request: `ok` or the error's code. A line `rotate` on its input makes it sign with another key.

import { generateKeyPairSync, randomBytes, randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import { createInterface } from 'node:readline';
import Provider from 'oidc-provider';

const { clients, lifetime } = JSON.parse(process.argv[2]);
const server = createServer((request, response) => answer(request, response));
const keys = [];
let answer;

server.listen(0, '127.0.0.1', () => {
  rotate();
  console.log(issuer());
});

createInterface({ input: process.stdin })
  .on('line', rotate)
  .on('close', () => process.exit());

function issuer() {
  return `http://127.0.0.1:${server.address().port}`;
}

// The first key signs; the older ones stay published.
function rotate() {
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  keys.unshift({ ...privateKey.export({ format: 'jwk' }), kid: randomUUID(), use: 'sig', alg: 'RS256' });
  const provider = new Provider(issuer(), configuration());
  provider.on('grant.success', () => console.log('ok'));
  provider.on('grant.error', (context, error) => console.log(error.error));
  provider.on('server_error', (context, error) => console.error(error));
  answer = provider.callback();
}

function configuration() {
  return {
    clients: clients.map((client) => ({
      grant_types: ['client_credentials'],
      redirect_uris: [],
      response_types: [],
      ...client,
    })),
    jwks: { keys },
    ttl: { ClientCredentials: lifetime },
    scopes: ['fleet.read', 'fleet.write'],
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      dPoP: { enabled: true, nonceSecret: randomBytes(32), requireNonce: () => true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (context, resource) => ({
          scope: 'fleet.read fleet.write',
          audience: resource,
          accessTokenTTL: lifetime,
          accessTokenFormat: 'jwt',
          jwt: { sign: { alg: 'RS256' } },
        }),
      },
    },
  };
}
