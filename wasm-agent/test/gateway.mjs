// A gateway of a few lines, for the agent to talk to: real sockets, real frames decoded by a third codec (protobufjs), and no
// memory of what counts beyond what the tests ask. It can be told to be silent, to vanish and to come back.
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { fileURLToPath } from 'node:url';
import protobuf from 'protobufjs';
import { WebSocketServer } from 'ws';

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const schema = protobuf.loadSync(here('../../proto/schema/agent.proto'));
const [ClientFrame, ServerFrame, Envelope, Batch] = ['ClientFrame', 'ServerFrame', 'Envelope', 'Batch'].map((name) =>
  schema.lookupType(`tideline.agent.v1.${name}`),
);

export const REASON_UNKNOWN_SITE = 5;
export const REASON_TOO_LARGE = 67;

const TYPES = { '.js': 'text/javascript', '.wasm': 'application/wasm' };

export class Gateway {
  // What arrived, in order: { via: 'socket' | 'post', at, site, bytes, batch, connection }.
  transmissions = [];
  hellos = [];
  connections = 0;
  acknowledges = true;
  away = false; // connections are closed as soon as they are made, and requests answered by nobody
  clockAheadMs = 0;
  refuses = false; // connections are closed as soon as they are made
  swallows = null; // 'handshakes' or 'messages' of sockets: they arrive nowhere
  failsPosts = 0; // so many are answered with a proxy's 502
  flushIntervalMs = 500;
  reject = null; // a Reject for everything
  throttle = null; // a Throttle for every batch
  fileDelay = 0; // ms before tideline.wasm is served
  without = []; // files that are not served
  port = 0;
  #swallowed = [];

  async start() {
    this.http = createServer((request, response) => this.#serve(request, response));
    this.sockets = new WebSocketServer({
      server: this.http,
      path: '/v1/stream',
      verifyClient: ({ req }, accept) => {
        if (this.swallows === 'handshakes') this.#swallowed.push(req.socket);
        else accept(true);
      },
    });
    this.sockets.on('connection', (socket) => this.#connected(socket));
    await new Promise((resolve) => this.http.listen(this.port, '127.0.0.1', resolve));
    this.port = this.http.address().port;
    this.url = `http://127.0.0.1:${this.port}`;
    return this;
  }

  async stop() {
    for (const socket of this.sockets.clients) socket.terminate();
    for (const socket of this.#swallowed) socket.destroy();
    this.http.closeAllConnections();
    await new Promise((resolve) => this.http.close(resolve));
  }

  // Ends every connection without a word.
  cut() {
    for (const socket of this.sockets.clients) socket.terminate();
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

  #serve(request, response) {
    const { pathname } = new URL(request.url, this.url);
    response.setHeader('Access-Control-Allow-Origin', '*');
    if (pathname === '/v1/batch' && request.method === 'POST') {
      if (this.away) return request.destroy();
      const chunks = [];
      request.on('data', (chunk) => chunks.push(chunk));
      request.on('end', () => {
        if (this.failsPosts > 0) {
          this.failsPosts--;
          response.writeHead(502).end();
          return;
        }
        const answer = this.#envelope(Buffer.concat(chunks), 'post');
        response.end(answer && ServerFrame.encode(answer).finish());
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
        else say(socket, { welcome: { serverMs: Date.now() + this.clockAheadMs, region: 'test', config: { flushIntervalMs: this.flushIntervalMs } } });
      } else if (frame.batch) {
        const answer = this.#envelope(Envelope.encode(frame.batch).finish(), 'socket', connection);
        if (answer) say(socket, answer);
      }
    });
  }

  #envelope(body, via, connection) {
    const { site, sentMs, batch: bytes } = Envelope.decode(body);
    const batch = Batch.decode(bytes);
    this.transmissions.push({ via, at: Date.now(), site, sentMs: Number(sentMs), bytes: Buffer.from(bytes), batch, connection });
    if (this.reject) return { reject: { ...this.reject, sid: batch.sid, seq: batch.seq } };
    if (this.throttle) return { throttle: { ...this.throttle, sid: batch.sid, seq: batch.seq } };
    return this.acknowledges ? { ack: { sid: batch.sid, seqs: [batch.seq], serverMs: Date.now() + this.clockAheadMs } } : null;
  }
}

const say = (socket, frame) => socket.send(ServerFrame.encode(ServerFrame.fromObject(frame)).finish());

const pairs = (list) => Object.fromEntries(list.flatMap((key, place) => (place % 2 ? [] : [[key, list[place + 1]]])));
