// Chromium with a gateway and a site of its own for each test.
import { createServer } from 'node:http';
import { chromium } from 'playwright-core';
import { Gateway } from './gateway.mjs';

const WAIT_MS = 10_000;
const ARGUMENTS = [
  '--no-sandbox',
  '--disable-gpu',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1', // whatever it has to say to the rest of the world
];

export const launch = () =>
  chromium.launch({
    executablePath: process.env.CHROMIUM || '/usr/bin/chromium',
    args: ARGUMENTS,
    ignoreDefaultArgs: ['--disable-back-forward-cache'],
  });

// The one context of a browser that keeps its profile in this folder.
export const launchProfile = (folder) =>
  chromium.launchPersistentContext(folder, {
    executablePath: process.env.CHROMIUM || '/usr/bin/chromium',
    args: ARGUMENTS,
    ignoreDefaultArgs: ['--disable-back-forward-cache'],
  });

// Runs `story` with a fresh gateway, site and browser context; fails if a page threw or anything outlives its bound.
export const visit = async (browser, options, story) => {
  const gateway = await new Gateway().start();
  Object.assign(gateway, options.gateway);
  const site = await serveSite((path) => options.page?.(path, gateway) ?? html(gateway), options.headers);
  const context = options.context ?? (await browser.newContext());
  if (options.init) await context.addInitScript(options.init);
  const page = await context.newPage();
  const errors = [];
  const warnings = [];
  page.on('pageerror', (error) => errors.push(String(error)));
  page.on('console', (message) => message.type() === 'warning' && warnings.push(message.text()));
  try {
    await story({ gateway, page, context, url: site.url, warnings });
    if (errors.length) throw new Error(`the page threw: ${errors.join('; ')}`);
  } finally {
    await context.close();
    await gateway.stop();
    await site.stop();
  }
};

export const CONSENTS = (_, gateway) => html(gateway, snippet(gateway, 'data-consent="granted"'));

export const snippet = (gateway, more = '') => `<script defer src="${gateway.url}/tideline.js" data-site="shop" ${more}></script>`;

export const html = (gateway, head = snippet(gateway)) =>
  `<!doctype html><title>shop</title>${head}<h1>shop</h1><a href="/next">next</a>`;

const serveSite = async (page, headers = {}) => {
  const server = createServer((request, response) => {
    response.writeHead(200, { 'Content-Type': 'text/html', ...headers });
    response.end(page(request.url));
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    stop: () => {
      server.closeAllConnections();
      return new Promise((resolve) => server.close(resolve));
    },
  };
};

// Waits until `value()` is `expected`, then a little longer: what should not come must have had the time to.
export const settles = async (value, expected, quietMs = 300) => {
  const same = () => JSON.stringify(value()) === JSON.stringify(expected);
  await until(same, () => `${JSON.stringify(value())} instead of ${JSON.stringify(expected)}`);
  await sleep(quietMs);
  if (!same()) throw new Error(`${JSON.stringify(value())} in the end instead of ${JSON.stringify(expected)}`);
};

export const until = async (condition, describe = () => 'nothing came') => {
  for (const end = Date.now() + WAIT_MS; !condition(); await sleep(20)) {
    if (Date.now() > end) throw new Error(describe());
  }
};

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
