// The same visit in Firefox, by WebTransport and, where no datagram is answered, by WebSocket.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { launch } from 'puppeteer-core';
import { Instance, sleep, until } from './instance.mjs';
import { Network } from './network.mjs';
import { assertCounted, walk } from './visit.mjs';

const LIMITS = { timeout: 120_000 };
const ANOTHER_CUT_MS = 12_000;
const LEDGER_MAX_MS = 40_000;
const LADDER = { webtransport: {}, websocket: { udp: false } };

let instance;
let browser;
const networks = [];
let settled = 0; // when what is counted twice would show
before(async () => {
  const firefox = launch({
    browser: 'firefox',
    executablePath: process.env.FIREFOX || '/usr/bin/firefox-esr',
    // Whatever the browser itself has to say to the rest of the world stays here.
    extraPrefsFirefox: { 'network.dns.disabled': true },
  });
  [instance, browser] = await Promise.all([Instance.start(), firefox]);
  console.log(await browser.version());
}, { timeout: 150_000 });
after(async () => {
  await browser?.close();
  for (const network of networks) await network.stop();
  await instance?.stop();
});

for (const [transport, lets] of Object.entries(LADDER)) {
  test(`a visit in Firefox is carried by ${transport}`, LIMITS, async () => {
    // Firefox always says that a program drives it.
    const network = await Network.start(instance, transport, lets, { rules: { automated: 'allow' } });
    networks.push(network);
    const context = await browser.createBrowserContext();
    const page = await context.newPage();
    const errors = [];
    page.on('pageerror', (error) => errors.push(String(error)));
    const { carried, arrived_ms } = await walk(page, network);
    await context.close();
    settled = Date.now() + ANOTHER_CUT_MS;
    const { post = 0, ...others } = carried;
    console.log(`${transport}: batches ${JSON.stringify(carried)}; pages arrived ${arrived_ms.join(', ')} ms after they were asked for`);
    // What a page has no answer to while it is left it posts as well.
    assert.ok(Object.keys(others).join() === transport && others[transport] > post, JSON.stringify(carried));
    assert.equal(network.swallowed > 0, lets.udp === false, 'datagrams of WebTransport');
    assert.deepEqual(errors, []);
  });
}

test('what a driven Firefox does is dropped, and in the ledger', LIMITS, async () => {
  const network = await Network.start(instance, 'driven');
  networks.push(network);
  const context = await browser.createBrowserContext();
  const page = await context.newPage();
  await page.goto(`${network.shop}/`);
  const ledger = () => instance.ask('GET', '/api/v2/ledger?site_id=driven');
  await until('the page in the ledger', async () => (await ledger()).sent >= 1, LEDGER_MAX_MS);
  await context.close();
  const { sent, counted, dropped } = await ledger();
  const reasons = dropped.reasons.map(({ reason, events }) => [reason, events]);
  assert.deepEqual({ sent, counted, reasons }, { sent: 1, counted: 0, reasons: [['automated', 1]] });
});

describe('a visit in Firefox is counted once', { concurrency: true }, () => {
  for (const transport of Object.keys(LADDER)) {
    test(`a visit in Firefox carried by ${transport} is counted once`, LIMITS, async () => {
      await sleep(Math.max(0, settled - Date.now()));
      await assertCounted(instance, transport);
      assert.deepEqual(await instance.by('visit:browser', 'visits', transport), { Firefox: 1 });
    });
  }
});
