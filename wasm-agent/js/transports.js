// The ways to the gateway. Each opens a connection and gives { send(frame), close() }: the core's ClientFrames go out, and
// the gateway's ServerFrames come back by `frame`. `opened` says that frames may be sent, `closed` that nothing will come any
// more, perhaps more than once. None of them calls back before it has returned.

import { DRAIN, GREETING, bytes, flagsHead, joined, keyed, lengthHead, unframe, unwrapped, utf8, withFlags, withLength } from './wire.js';

const HASH_BYTES = 32;

// One stream of one session. `base` is https; `hash`: the SHA-256 of a certificate that no authority has signed.
export const webTransport = (base, hash) => ({ opened, frame, closed }) => {
  // Chromium sends no user agent here, and without one a gateway takes us for a program.
  const session = new WebTransport(new URL('v1/stream?user-agent=' + encodeURIComponent(navigator.userAgent), base), {
    requireUnreliable: false,
    serverCertificateHashes: hash ? [{ algorithm: 'sha-256', value: fromHex(hash) }] : [],
  });
  let writer;
  const run = async () => {
    await session.ready;
    const { readable, writable } = await session.createBidirectionalStream();
    writer = writable.getWriter();
    opened();
    await read(readable, lengthHead, frame);
  };
  run().then(closed, closed);
  session.closed.then(closed, closed);
  return {
    send: (message) => writer.write(withLength(message)).catch(closed),
    close() {
      writer?.close().catch(closed); // the gateway hears the end of the stream at once, that of the session perhaps not
      session.close();
    },
  };
};

export const webSocket = (base) => ({ opened, frame, closed }) => {
  const socket = new WebSocket(base.replace(/^http/, 'ws') + 'v1/stream');
  socket.binaryType = 'arraybuffer';
  socket.onopen = opened;
  socket.onmessage = ({ data }) => data instanceof ArrayBuffer && frame(new Uint8Array(data));
  socket.onclose = closed;
  return socket;
};

// A call that stays open brings what is not an answer, and each batch is a call of its own. After a Drain the first has said
// everything; when to leave is for the core to say.
export const grpcWeb = (base, site, key) => (calls) =>
  requests(calls, async (message, { signal, frame }) => {
    const subscribes = message[0] === GREETING;
    const url = base + 'tideline.agent.v1.Agent/' + (subscribes ? 'Subscribe' : 'Send');
    const body = withFlags(subscribes ? unwrapped(message) : withSite(site, key, message));
    const response = await request(url, 'application/grpc-web+proto', body, { signal }, { 'X-Grpc-Web': 1 });
    let lives = false; // a call that has failed has no answer, whatever its trailers say of it
    const took = (answer) => {
      lives = !subscribes || answer[0] === DRAIN;
      frame(answer);
    };
    if (response.ok) await read(response.body, flagsHead, took);
    return lives;
  });

// Each batch is a request: no Hello, nothing that is not an answer.
export const post = (base, site, key) => (calls) =>
  requests(calls, async (message, { signal, frame }) => {
    if (message[0] === GREETING) return true;
    const response = await postBatch(base, withSite(site, key, message), { signal });
    const answers = response.headers.get('Content-Type') === 'application/x-protobuf'; // not a proxy's page
    if (answers) frame(new Uint8Array(await response.arrayBuffer()));
    return answers;
  });

// A type that needs no preflight.
export const postBatch = (base, envelope, options) => request(base + 'v1/batch', 'text/plain', envelope, options);

export const beacon = (base, envelope) =>
  navigator.sendBeacon(base + 'v1/batch', new Blob([envelope], { type: 'text/plain' }));

const request = (url, type, body, options, headers) =>
  fetch(url, { method: 'POST', credentials: 'omit', headers: { 'Content-Type': type, ...headers }, body, ...options });

// A connection of requests: open at once, and closed when one of them fails or `ask` says that it is at its end.
const requests = ({ opened, frame, closed }, ask) => {
  const stop = new AbortController();
  queueMicrotask(opened);
  return {
    send: (message) => ask(message, { signal: stop.signal, frame }).then((lives) => lives || closed(), closed),
    close: () => stop.abort(),
  };
};

const read = async (readable, headOf, took) => {
  const takes = unframe(headOf, took);
  const reader = readable.getReader();
  for (let chunk; !(chunk = await reader.read()).done; ) takes(chunk.value);
};

// The Envelope of a ClientFrame with the site that no Hello has named, and its key: in protobuf fields can be put in front.
const withSite = (site, key, message) => joined(bytes(1, utf8(site)), keyed(5, key), unwrapped(message));

const fromHex = (hash) => {
  const value = Uint8Array.from(hash.match(/[0-9a-f]{2}/gi) || [], (pair) => parseInt(pair, 16));
  if (value.length !== HASH_BYTES) throw new Error('data-certificate-hash needs 64 hex digits');
  return value;
};
