// A visitor's network between a browser and a real gateway: it has the shop's pages at an origin of its own, and lets through
// what it is told to. Nothing is changed inside a page: what does not get through fails as it does outside.
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { createServer, request as ask } from 'node:http';
import { connect } from 'node:net';
import { Envelope, Reason, ServerFrame } from './protocol.mjs';
import { until } from './instance.mjs';

const CALLS = '/tideline.agent.v1.Agent/';

export class Network {
  // With pages that count for `site`, by its `rules`, and with a key if it is `keyed`: it requires one then. `udp`, `upgrades`, `calls`:
  // whether WebTransport, WebSockets and gRPC-Web get through.
  static async start(instance, site, { udp = true, upgrades = true, calls = true } = {}, { rules, keyed = false } = {}) {
    const network = new Network();
    Object.assign(network, { instance, site, udp, upgrades, calls });
    network.hole = createSocket('udp4').on('message', () => (network.swallowed += 1)).bind(0, '127.0.0.1');
    await once(network.hole, 'listening');
    network.pages = createServer((request, response) => network.#page(request, response));
    network.gateway = createServer((request, response) => network.#forward(request, response));
    network.gateway.on('upgrade', (request, socket, head) => network.#upgrade(request, socket, head));
    network.shop = await listen(network.pages);
    network.url = await listen(network.gateway);
    await instance.putSite(site, [network.shop], { rules });
    if (keyed) {
      network.key = (await instance.ask('POST', `/api/v2/sites/${site}/keys`)).key;
      await instance.putSite(site, [network.shop], { key_required: true });
      await until('the gateway requires a key', async () => (await network.#refused('')) === Reason.REASON_WRONG_KEY, 10_000);
    }
    await until('the gateway knows the site', async () => (await network.#refused(network.key)) === Reason.REASON_MALFORMED, 10_000);
    return network;
  }

  // Why something that is no batch is refused.
  async #refused(key) {
    const headers = { origin: this.shop, 'content-type': 'text/plain' };
    const body = Envelope.encode({ site: this.site, batch: Uint8Array.of(0xff), key }).finish();
    const answer = await fetch(`${this.instance.gateway}/v1/batch`, { method: 'POST', headers, body });
    return ServerFrame.decode(new Uint8Array(await answer.arrayBuffer())).reject.reason;
  }

  key = '';

  swallowed = 0; // datagrams
  refused = []; // 'upgrade' and 'call', each as often as it was tried
  preflights = []; // the requests by which a browser asked whether it may call

  // The shop's page as it is, but for the site it counts for and the addresses of the gateway.
  async #page({ url, method }, response) {
    const page = await fetch(this.instance.shop + url, { method });
    const type = page.headers.get('content-type') ?? '';
    let body = Buffer.from(await page.arrayBuffer());
    if (type.startsWith('text/html')) body = this.#rewritten(body.toString());
    response.writeHead(page.status, { 'Content-Type': type, 'Cache-Control': 'no-cache' }).end(body);
  }

  #rewritten(html) {
    const replaced = (text, [from, to]) => {
      if (!from.test(text)) throw new Error(`the shop's snippet has no ${from}`);
      return text.replace(from, to);
    };
    const changes = [
      [/data-site="demo"/, `data-site="${this.site}"${this.key && ` data-key="${this.key}"`}`],
      [/src="[^"]+\/tideline\.js"/, `src="${this.url}/tideline.js"`],
      [/data-webtransport="(https[^"]+)"/, this.udp ? '$&' : `data-webtransport="https://127.0.0.1:${this.hole.address().port}"`],
    ];
    return changes.reduce(replaced, html);
  }

  #forward(request, response) {
    if (request.url.startsWith(CALLS) && !this.calls) {
      this.refused.push('call');
      return response.writeHead(403).end();
    }
    const { method, headers } = request;
    if (method === 'OPTIONS') this.preflights.push(request);
    const onward = ask(this.instance.gateway + request.url, { method, headers }, (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
    });
    onward.on('error', () => response.destroy());
    response.on('close', () => onward.destroy());
    request.pipe(onward);
  }

  #upgrade(request, socket, head) {
    socket.on('error', () => socket.destroy());
    if (!this.upgrades) {
      this.refused.push('upgrade');
      return socket.end('HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n');
    }
    const onward = connect(new URL(this.instance.gateway).port, '127.0.0.1');
    const lines = [`GET ${request.url} HTTP/1.1`];
    for (let i = 0; i < request.rawHeaders.length; i += 2) lines.push(`${request.rawHeaders[i]}: ${request.rawHeaders[i + 1]}`);
    onward.write(`${lines.join('\r\n')}\r\n\r\n`);
    onward.write(head);
    onward.pipe(socket).pipe(onward);
    onward.on('error', () => socket.destroy()).on('close', () => socket.destroy());
    socket.on('close', () => onward.destroy());
  }

  async stop() {
    this.hole.close();
    for (const server of [this.pages, this.gateway]) {
      server.close();
      server.closeAllConnections();
    }
  }
}

const listen = async (server) => {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return `http://127.0.0.1:${server.address().port}`;
};
