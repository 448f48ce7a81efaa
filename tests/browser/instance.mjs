// One `tideline up --demo` with its own ports and folder, and a browser that looks like anybody's.
import { execFile, execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { chromium } from 'playwright-core';

const TARGET = process.env.CARGO_TARGET_DIR || resolve(import.meta.dirname, '../../target');
const TIDELINE = join(TARGET, 'debug/tideline');
const SITE = 'demo';
// Headless Chromium calls itself so, and programs are not counted. Set for the whole browser: what a page sends while it is
// being left would not have the name that a context emulates.
const USER_AGENT = 'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Safari/537.36';
const START_MAX_MS = 90_000;

export const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

// Asks until the answer is truthy; the last answer is in the error.
export const until = async (what, ask, within_ms) => {
  const began = Date.now();
  for (;;) {
    const answer = await ask();
    if (answer) return Date.now() - began;
    if (Date.now() - began > within_ms) throw new Error(`${what}: not within ${within_ms} ms`);
    await sleep(50);
  }
};

export class Instance {
  static async start() {
    const instance = new Instance();
    instance.folder = mkdtempSync(join(tmpdir(), 'tideline-'));
    instance.data = join(instance.folder, 'data');
    const free = '127.0.0.1:0';
    const args = ['up', '--demo', '--no-visitors', '--data', instance.data, '--gateway', free, '--central', free, '--shop', free];
    instance.output = '';
    instance.child = spawn(TIDELINE, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    for (const stream of [instance.child.stdout, instance.child.stderr]) {
      stream.on('data', (bytes) => (instance.output += bytes));
    }
    try {
      await until('tideline up says that it runs', () => {
        if (instance.child.exitCode !== null) throw new Error(`tideline up ended: ${instance.output}`);
        return instance.output.includes('Ctrl-C stops everything');
      }, START_MAX_MS);
    } catch (error) {
      await instance.stop();
      throw error;
    }
    const status = JSON.parse(execFileSync(TIDELINE, ['status', '--json', '--data', instance.data], { encoding: 'utf8' }));
    const role = (name) => status.roles.find((it) => it.role === name);
    instance.shop = status.shop.replace(/\/$/, '');
    instance.central = `http://${role('central').address}`;
    instance.gateway = `http://${role('gateway').address}`;
    instance.metrics = `http://${role('gateway').admin}/metrics`;
    instance.key = readFileSync(join(instance.data, 'api-key'), 'utf8').trim();
    instance.signIn = instance.output.match(/http\S+sign-in\S+/)[0];
    return instance;
  }

  async stop() {
    const ended = new Promise((done) => this.child.once('exit', done));
    if (this.child.exitCode === null) {
      this.child.kill('SIGTERM');
      const killer = setTimeout(() => this.child.kill('SIGKILL'), 40_000);
      await ended;
      clearTimeout(killer);
    }
    rmSync(this.folder, { recursive: true, force: true });
  }

  async ask(method, path, body) {
    const headers = { authorization: `Bearer ${this.key}`, 'content-type': 'application/json' };
    const answer = await fetch(this.central + path, { method, headers, body: body && JSON.stringify(body) });
    const text = await answer.text();
    if (!answer.ok) throw new Error(`${path}: ${answer.status} ${text}`);
    return JSON.parse(text);
  }

  // A site whose pages are those of these origins, and what else is to change of it.
  putSite = (site_id, origins, change) => this.ask('POST', '/api/v2/sites', { site_id, origins, ...change });

  query = (body) => this.ask('POST', '/api/v2/query', { site_id: SITE, date_range: 'all', ...body });
  live = () => this.ask('GET', `/api/v2/live?site_id=${SITE}`);

  // [pageviews, events] so far, `events` with the pageviews among them.
  counts = async (site_id = SITE) => (await this.query({ site_id, metrics: ['pageviews', 'events'] })).results[0].metrics;

  // Rows of one dimension: { value: count }.
  by = async (dimension, metric, site_id = SITE) => {
    const { results } = await this.query({ site_id, metrics: [metric], dimensions: [dimension] });
    return Object.fromEntries(results.map((row) => [row.dimensions[0], row.metrics[0]]));
  };

  // What `tideline audit` says of a site, once everything it compares has come.
  async audit(site) {
    const args = ['audit', '--site', site, '--url', this.central, '--key-file', join(this.data, 'api-key'), '--wait', '60', '--json'];
    // It fails on a difference, which its answer names.
    const { stdout, said } = await new Promise((done) =>
      execFile(TIDELINE, args, { timeout: 90_000 }, (error, stdout, stderr) => done({ stdout, said: `${error} ${stderr}` })),
    );
    if (!stdout.startsWith('{')) throw new Error(`tideline audit: ${said}`);
    return JSON.parse(stdout);
  }

  // Batches that the gateway took so far: { transport: batches }.
  batches = async () => {
    const text = await (await fetch(this.metrics)).text();
    const rows = text.matchAll(/^tideline_gateway_batches_total\{transport="(\w+)"\} (\d+)$/gm);
    return Object.fromEntries([...rows].map(([, transport, batches]) => [transport, Number(batches)]));
  };

  logs() {
    const folder = join(this.data, 'logs');
    const tail = (file) => `--- ${file}\n${readFileSync(join(folder, file), 'utf8').split('\n').slice(-15).join('\n')}`;
    return readdirSync(folder).map(tail).join('\n');
  }
}

// Whatever the browser itself has to say to the rest of the world stays here.
const ALONE = '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost';

export const launch = () =>
  chromium.launch({
    executablePath: process.env.CHROMIUM || '/usr/bin/chromium',
    // Visits of people: nothing of them says that a program drives the browser.
    args: ['--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync', ALONE, '--disable-blink-features=AutomationControlled', `--user-agent=${USER_AGENT}`],
    ignoreDefaultArgs: ['--disable-back-forward-cache'],
  });

// A person of their own: no cookies, no cache, a viewport.
export const person = (browser, options = {}) => browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });

// What a page sends to the gateway, in bytes: frames with their headers and masks, and bodies.
export const weigh = (page) => {
  const weight = { bytes: 0, messages: 0 };
  const add = (length, overhead) => {
    weight.bytes += length + overhead;
    weight.messages += 1;
  };
  page.on('websocket', (socket) => socket.on('framesent', ({ payload }) => add(payload.length, payload.length < 126 ? 6 : 8)));
  page.on('request', (request) => request.url().includes('/v1/batch') && add(request.postDataBuffer()?.length ?? 0, 0));
  return weight;
};
