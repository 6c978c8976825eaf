// undici's WebSocket: sends a large binary message and a text, and writes the size and digest of each answer.

import { createHash } from 'node:crypto';
import { WebSocket } from 'undici';

const socket = new WebSocket(process.argv[2], 'chat');
const messages = [Buffer.alloc(10_000_000, 'large'), 'text'];
socket.binaryType = 'arraybuffer';
socket.onopen = () => socket.send(messages.shift());
socket.onmessage = ({ data }) => {
  const bytes = Buffer.from(data);
  console.log(socket.protocol, bytes.length, createHash('sha256').update(bytes).digest('hex'));
  if (messages.length) {
    socket.send(messages.shift());
  } else {
    socket.close(4000, 'enough');
  }
};
socket.onerror = (event) => {
  console.error(event.error);
  process.exit(1);
};
