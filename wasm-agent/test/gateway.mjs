// A gateway of a few lines, for the agent to talk to: real sockets, real frames decoded by a third codec (protobufjs), and no
// memory of what counts beyond what the tests ask. It can be told to be silent, to vanish and to come back, and which transports
// get through. It has no HTTP/3: where WebTransport would be, datagrams arrive and nobody answers.
import { createSocket } from 'node:dgram';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { fileURLToPath } from 'node:url';
import protobuf from 'protobufjs';
import { WebSocketServer } from 'ws';

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const schema = protobuf.loadSync(here('../../proto/schema/agent.proto'));
const [ClientFrame, ServerFrame, Hello, Envelope, Batch] = ['ClientFrame', 'ServerFrame', 'Hello', 'Envelope', 'Batch'].map((name) =>
  schema.lookupType(`tideline.agent.v1.${name}`),
);

export const REASON_UNKNOWN_SITE = 5;
export const REASON_WRONG_KEY = 12;
export const REASON_SCHEMA_EVENT = 42;
export const REASON_TOO_LARGE = 67;

const TYPES = { '.js': 'text/javascript', '.wasm': 'application/wasm' };

export class Gateway {
  // What arrived, in order: { via: 'socket' | 'grpc' | 'post', at, site, key, bytes, batch, connection }.
  transmissions = [];
  hellos = [];
  // Which transports were tried, in order and without repeats: 'datagram', 'socket', 'grpc', 'post'.
  tried = [];
  connections = 0;
  acknowledges = true;
  away = false; // connections are closed as soon as they are made, and requests answered by nobody
  clockAheadMs = 0;
  refuses = false; // connections are closed as soon as they are made
  swallows = null; // 'handshakes', 'messages' or 'batches' of sockets: they arrive nowhere
  swallowed = 0; // batches
  upgrades = true; // false: a proxy answers the upgrade with 403
  grpc = 'serves'; // or 'missing' (404), 'unavailable' (its status in trailers), 'swallows', 'swallows batches' (no answer, ever)
  heartbeatMs = 25_000; // of a subscription
  posts = true; // false: nobody answers them
  failsPosts = 0; // so many are answered with a proxy's 502
  flushIntervalMs = 500;
  reject = null; // a Reject for everything
  throttle = null; // a Throttle for every batch
  notice = null; // a Notice before the answer of every batch on a socket
  fileDelay = 0; // ms before tideline.wasm is served
  without = []; // files that are not served
  port = 0;
  #swallowed = [];
  #subscriptions = new Set();

  async start() {
    this.http = createServer((request, response) => this.#serve(request, response));
    this.sockets = new WebSocketServer({
      server: this.http,
      path: '/v1/stream',
      verifyClient: ({ req }, accept) => {
        this.#tries('socket');
        if (!this.upgrades) accept(false, 403);
        else if (this.swallows === 'handshakes') this.#swallowed.push(req.socket);
        else accept(true);
      },
    });
    this.sockets.on('connection', (socket) => this.#connected(socket));
    await new Promise((resolve) => this.http.listen(this.port, '127.0.0.1', resolve));
    this.port = this.http.address().port;
    this.url = `http://127.0.0.1:${this.port}`;
    this.datagrams = createSocket('udp4').on('message', () => this.#tries('datagram'));
    await new Promise((resolve) => this.datagrams.bind(0, '127.0.0.1', resolve));
    this.webTransport = `https://127.0.0.1:${this.datagrams.address().port}/`;
    return this;
  }

  async stop() {
    for (const socket of this.sockets.clients) socket.terminate();
    for (const socket of this.#swallowed) socket.destroy();
    this.http.closeAllConnections();
    await new Promise((resolve) => this.datagrams.close(resolve));
    await new Promise((resolve) => this.http.close(resolve));
  }

  // Ends every connection without a word.
  cut() {
    for (const socket of this.sockets.clients) socket.terminate();
    for (const response of this.#subscriptions) response.destroy();
  }

  // Asks every connection to leave; of a subscription that is the end.
  drain(withinMs) {
    const drain = { drain: { withinMs } };
    for (const socket of this.sockets.clients) say(socket, drain);
    for (const response of this.#subscriptions) response.end(Buffer.concat([message(drain), trailers(0)]));
  }

  // Connections that are open now.
  get open() {
    return this.sockets.clients.size + this.#subscriptions.size;
  }

  // How often each number arrived.
  numbers() {
    const counts = new Map();
    for (const { batch } of this.transmissions) {
      const number = `${Buffer.from(batch.sid).toString('hex')}/${batch.seq}`;
      counts.set(number, (counts.get(number) ?? 0) + 1);
    }
    return [...counts.values()];
  }

  // The distinct events, by identity (sid, seq, index): the only count that means anything.
  events() {
    const batches = new Map();
    for (const { bytes, batch } of this.transmissions) {
      const identity = `${Buffer.from(batch.sid).toString('hex')}/${batch.seq}`;
      const known = batches.get(identity);
      if (known && !known.bytes.equals(bytes)) throw new Error(`batch ${identity} has changed its bytes`);
      batches.set(identity, { bytes, batch });
    }
    return [...batches.values()].flatMap(({ batch }) =>
      batch.events.map((event) => ({
        name: batch.strings[event.name - 1],
        url: batch.strings[event.url - 1],
        referrer: batch.strings[event.referrer - 1] ?? '',
        props: pairs(event.props.map((reference) => batch.strings[reference - 1] ?? '')),
        seq: batch.seq,
        sid: Buffer.from(batch.sid).toString('hex'),
        batch,
      })),
    );
  }

  // The events' names, pageviews as their paths.
  names() {
    return this.events().map(({ name, url }) => (name === 'pageview' ? new URL(url).pathname + new URL(url).search : name));
  }

  #tries(transport) {
    if (!this.tried.includes(transport)) this.tried.push(transport);
  }

  #serve(request, response) {
    const { pathname } = new URL(request.url, this.url);
    response.setHeader('Access-Control-Allow-Origin', '*');
    const call = pathname.match(/^\/tideline\.agent\.v1\.Agent\/(Subscribe|Send)$/)?.[1];
    if (request.method === 'OPTIONS') {
      response.setHeader('Access-Control-Allow-Headers', 'content-type, x-grpc-web');
      response.writeHead(204).end();
      return;
    }
    if (request.method === 'POST') {
      const chunks = [];
      request.on('data', (chunk) => chunks.push(chunk));
      request.on('end', () => {
        const body = Buffer.concat(chunks);
        if (call) this.#call(call, body, response);
        else if (pathname === '/v1/batch') this.#post(body, response);
        else response.writeHead(404).end();
      });
      return;
    }
    const name = pathname.slice(1);
    if (!/^tideline(-core)?\.(js|wasm)$/.test(name) || this.without.includes(name)) {
      response.writeHead(404).end();
      return;
    }
    response.setHeader('Content-Type', TYPES[name.slice(name.lastIndexOf('.'))]);
    const wait = name === 'tideline.wasm' ? this.fileDelay : 0;
    setTimeout(() => response.end(readFileSync(here(`../dist/${name}`))), wait);
  }

  #post(body, response) {
    this.#tries('post');
    if (this.away || !this.posts) return response.destroy();
    if (this.failsPosts > 0) {
      this.failsPosts--;
      response.writeHead(502, { 'Content-Type': 'text/html' }).end('<h1>Bad gateway</h1>');
      return;
    }
    const answer = this.#envelope(body, 'post');
    response.setHeader('Content-Type', 'application/x-protobuf');
    response.end(answer && ServerFrame.encode(answer).finish());
  }

  #call(name, body, response) {
    this.#tries('grpc');
    if (this.away) return response.destroy();
    if (this.grpc === 'missing') return response.writeHead(404, { 'Content-Type': 'text/html' }).end('<h1>Not found</h1>');
    if (this.grpc === 'swallows' || (this.grpc === 'swallows batches' && name === 'Send')) {
      this.swallowed++;
      return;
    }
    response.setHeader('Content-Type', 'application/grpc-web+proto');
    if (this.grpc === 'unavailable') return response.end(trailers(14));
    const length = body.readUInt32BE(1);
    if (body[0] || body.length !== 5 + length) throw new Error(`a call of ${body.length} bytes that says ${length}`);
    if (name === 'Send') {
      const answer = this.#envelope(body.subarray(5), 'grpc');
      if (answer) response.end(Buffer.concat([message(answer), trailers(0)]));
      return;
    }
    this.hellos.push(Hello.decode(body.subarray(5)));
    if (this.reject) return response.end(Buffer.concat([message({ reject: this.reject }), trailers(0)]));
    this.#subscriptions.add(response);
    response.on('close', () => this.#subscriptions.delete(response));
    response.write(message(this.#welcome()));
    const { flushIntervalMs } = this;
    const beats = setInterval(() => response.write(message({ config: { flushIntervalMs } })), this.heartbeatMs);
    response.on('close', () => clearInterval(beats));
  }

  #connected(socket) {
    const connection = ++this.connections;
    if (this.refuses || this.away) return socket.terminate();
    socket.on('error', () => {});
    if (this.swallows === 'messages') return;
    socket.on('message', (data) => {
      const frame = ClientFrame.decode(data);
      if (frame.hello) {
        this.hellos.push({ connection, ...frame.hello });
        if (this.reject) say(socket, { reject: this.reject });
        else say(socket, this.#welcome());
      } else if (this.swallows === 'batches') this.swallowed++;
      else if (frame.batch) {
        const answer = this.#envelope(Envelope.encode(frame.batch).finish(), 'socket', connection);
        if (this.notice) say(socket, { notice: this.notice });
        if (answer) say(socket, answer);
      }
    });
  }

  #welcome() {
    const config = { flushIntervalMs: this.flushIntervalMs };
    return { welcome: { serverMs: Date.now() + this.clockAheadMs, region: 'test', config } };
  }

  #envelope(body, via, connection) {
    const { site, sentMs, key, batch: bytes } = Envelope.decode(body);
    const batch = Batch.decode(bytes);
    this.transmissions.push({ via, at: Date.now(), site, key, sentMs: Number(sentMs), bytes: Buffer.from(bytes), batch, connection });
    if (this.reject) return { reject: { ...this.reject, sid: batch.sid, seq: batch.seq } };
    if (this.throttle) return { throttle: { ...this.throttle, sid: batch.sid, seq: batch.seq } };
    return this.acknowledges ? { ack: { sid: batch.sid, seqs: [batch.seq], serverMs: Date.now() + this.clockAheadMs } } : null;
  }
}

const encoded = (frame) => ServerFrame.encode(ServerFrame.fromObject(frame)).finish();

const say = (socket, frame) => socket.send(encoded(frame));

// A message, or trailers, of gRPC-Web.
const framed = (flags, bytes) => {
  const head = Buffer.from([flags, 0, 0, 0, 0]);
  head.writeUInt32BE(bytes.length, 1);
  return Buffer.concat([head, bytes]);
};
const message = (frame) => framed(0, encoded(frame));
const trailers = (status) => framed(0x80, Buffer.from(`grpc-status: ${status}\r\n`));

const pairs = (list) => Object.fromEntries(list.flatMap((key, place) => (place % 2 ? [] : [[key, list[place + 1]]])));
