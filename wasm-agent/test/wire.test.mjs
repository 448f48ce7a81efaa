// Frames on a stream of bytes, however it is cut, and WebTransport over a session that is none: no browser is needed.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { webTransport } from '../js/transports.js';
import { flagsHead, lengthHead, unframe, unwrapped, varint, withFlags, withKey, withLength } from '../js/wire.js';

const FRAME_BYTES_MAX = 65_536;
const filled = (length) => Uint8Array.from({ length }, (_, place) => (place * 7 + length) % 251);
const SIZES = [0, 1, 5, 127, 128, 300, 16_383, 16_384];
const framings = [
  ['a length', withLength, lengthHead],
  ['flags', withFlags, flagsHead],
];

// What comes out of these chunks.
const taken = (headOf, chunks) => {
  const messages = [];
  const takes = unframe(headOf, (message) => messages.push(message));
  for (const chunk of chunks) takes(chunk);
  return messages;
};

const cut = (stream, size) => Array.from({ length: Math.ceil(stream.length / size) }, (_, place) => stream.subarray(place * size, (place + 1) * size));

for (const [name, frame, headOf] of framings) {
  test(`messages behind ${name} come out as they went in, however the stream is cut`, () => {
    const messages = SIZES.map(filled);
    const stream = Uint8Array.from(messages.flatMap((message) => [...frame(message)]));
    for (const size of [997, 16_384, stream.length]) assert.deepEqual(taken(headOf, cut(stream, size)), messages);
    const short = Uint8Array.from([1, 200, 3].flatMap((length) => [...frame(filled(length))]));
    for (let size = 1; size < 10; size++) assert.deepEqual(taken(headOf, cut(short, size)), [1, 200, 3].map(filled));
  });

  test(`a message behind ${name} of 64 KiB is the largest, and those before it are heard`, () => {
    const largest = filled(FRAME_BYTES_MAX);
    assert.deepEqual(taken(headOf, [frame(largest)]), [largest]);
    const messages = [];
    const takes = unframe(headOf, (message) => messages.push(message.length));
    const head = frame(filled(FRAME_BYTES_MAX + 1)).subarray(0, 8); // it is not waited for
    assert.throws(() => takes(Uint8Array.of(...frame(filled(3)), ...head)), RangeError);
    assert.deepEqual(messages, [3]);
  });
}

test('a length that does not end is no length', () => {
  assert.throws(() => taken(lengthHead, [Uint8Array.of(0xff, 0xff), Uint8Array.of(0xff)]), RangeError);
  assert.throws(() => taken(lengthHead, [Uint8Array.of(0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01)]), RangeError);
});

test('trailers are no message', () => {
  const trailers = new TextEncoder().encode('grpc-status: 0\r\ngrpc-message: \r\n');
  const stream = Uint8Array.of(...withFlags(filled(9)), 0x80, 0, 0, 0, trailers.length, ...trailers);
  for (const size of [1, 4, 20, stream.length]) assert.deepEqual(taken(flagsHead, cut(stream, size)), [filled(9)]);
});

test('what is compressed, or a page, is not gRPC-Web', () => {
  for (const text of ['\u0001\0\0\0\0', '<h1>Bad gateway</h1>', '{"error":1}', 'upstream timed out']) {
    assert.throws(() => taken(flagsHead, [new TextEncoder().encode(text)]), RangeError);
  }
});

test('a ClientFrame is taken off its message', () => {
  for (const length of [0, 1, 127, 128, 16_500]) {
    const frame = Uint8Array.of(0x12, ...varint(length), ...filled(length));
    assert.deepEqual(unwrapped(frame), filled(length));
  }
});

test('a key goes into a Hello, whatever its length, and no key changes nothing', () => {
  const hello = Uint8Array.of(0x0a, 6, 0x0a, 4, ...new TextEncoder().encode('shop'));
  assert.equal(withKey(hello, undefined), hello);
  for (const length of [1, 47, 300]) {
    const frame = withKey(hello, 'k'.repeat(length));
    const key = [0x1a, ...varint(length), ...Array(length).fill(0x6b)];
    assert.deepEqual([frame[0], ...unwrapped(frame)], [0x0a, ...unwrapped(hello), ...key]);
  }
});

// A session that hands its other end to the test: { options, url, sent, closes, ended, over, say(bytes), end() }.
const session = () => {
  const peer = { sent: [], closes: 0 };
  globalThis.WebTransport = class {
    constructor(url, options) {
      Object.assign(peer, { url: String(url), options });
      this.ready = Promise.resolve();
      this.closed = new Promise((resolve) => (this.close = () => (peer.closes++, resolve())));
      peer.over = this.closed;
    }

    async createBidirectionalStream() {
      const readable = new ReadableStream({
        start: (controller) => Object.assign(peer, { say: (bytes) => controller.enqueue(bytes), end: () => controller.close() }),
      });
      const writable = new WritableStream({ write: (bytes) => void peer.sent.push(...bytes), close: () => (peer.ended = true) });
      return { readable, writable };
    }
  };
  return peer;
};

// Not every Node has one, and those that do name themselves in it.
Object.defineProperty(globalThis, 'navigator', { value: { userAgent: 'Browser/1 (X11; a & b)' }, configurable: true });

// Connects to it; gives { peer, transport, frames, closed }, opened.
const connected = async (base, hash) => {
  const peer = session();
  const frames = [];
  let transport;
  let closes;
  const closed = new Promise((resolve) => (closes = resolve));
  await new Promise((opened) => {
    transport = webTransport(base, hash)({ opened, frame: (bytes) => frames.push(bytes), closed: closes });
  });
  return { peer, transport, frames, closed };
};

test('WebTransport puts every frame on one stream behind its length', async () => {
  const { peer, transport, frames, closed } = await connected('https://stats.example/edge/');
  assert.equal(peer.url, 'https://stats.example/edge/v1/stream?user-agent=Browser%2F1%20(X11%3B%20a%20%26%20b)');
  assert.deepEqual(peer.options, { requireUnreliable: false, serverCertificateHashes: [] });
  for (const length of [2, 300]) await transport.send(filled(length));
  assert.deepEqual(taken(lengthHead, [Uint8Array.from(peer.sent)]), [filled(2), filled(300)]);
  for (const chunk of cut(Uint8Array.of(...withLength(filled(4)), ...withLength(filled(200))), 3)) peer.say(chunk);
  peer.end();
  await closed;
  assert.deepEqual(frames, [filled(4), filled(200)]);
  transport.close();
  await peer.over;
  assert.deepEqual([peer.closes, peer.ended], [1, true]);
});

test('WebTransport is closed by a frame over 64 KiB', async () => {
  const { peer, frames, closed } = await connected('https://stats.example');
  peer.say(Uint8Array.from(varint(FRAME_BYTES_MAX + 1)));
  await closed;
  assert.deepEqual(frames, []);
});

test('the hash of a certificate is 32 bytes, with or without colons', async () => {
  const digits = '00ff'.repeat(16);
  for (const hash of [digits, digits.toUpperCase().match(/../g).join(':')]) {
    const { peer } = await connected('https://127.0.0.1:8443/', hash);
    const [{ algorithm, value }] = peer.options.serverCertificateHashes;
    assert.deepEqual([algorithm, [...value]], ['sha-256', Array.from({ length: 32 }, (_, place) => (place % 2 ? 255 : 0))]);
  }
  for (const hash of ['0f', digits + '00', 'no hash']) {
    assert.throws(() => webTransport('https://127.0.0.1:8443/', hash)({}), /64 hex digits/);
  }
});
