// The same visit by each transport, those above it knocked away in the network: the same counts, whatever carried it.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { Instance, launch, person, sleep, until } from './instance.mjs';
import { Network } from './network.mjs';
import { assertCounted, walk } from './visit.mjs';

const LIMITS = { timeout: 120_000 };
const ANOTHER_CUT_MS = 12_000;
const WARNING_MAX_MS = 20_000;
// What each transport has to do without to be the first that gets through.
const LADDER = {
  webtransport: {},
  websocket: { udp: false },
  grpc: { udp: false, upgrades: false },
  post: { udp: false, upgrades: false, calls: false },
};

let instance;
let browser;
const networks = [];
let settled = 0; // when what is counted twice would show
before(async () => {
  [instance, browser] = await Promise.all([Instance.start(), launch()]);
}, { timeout: 150_000 });
after(async () => {
  await browser?.close();
  for (const network of networks) await network.stop();
  await instance?.stop();
});

for (const [transport, lets] of Object.entries(LADDER)) {
  test(`a visit to a site that requires a key is carried by ${transport}`, LIMITS, async () => {
    const network = await Network.start(instance, transport, lets, { keyed: true });
    networks.push(network);
    const context = await person(browser);
    const page = await context.newPage();
    const errors = [];
    page.on('pageerror', (error) => errors.push(String(error)));
    const { carried, arrived_ms } = await walk(page, network);
    await context.close();
    settled = Date.now() + ANOTHER_CUT_MS;
    const { post = 0, ...others } = carried;
    console.log(`${transport}: batches ${JSON.stringify(carried)}; pages arrived ${arrived_ms.join(', ')} ms after they were asked for`);
    // What a page has no answer to while it is left, or for a while, it posts as well.
    if (transport === 'post') assert.deepEqual(others, {});
    else assert.ok(Object.keys(others).join() === transport && others[transport] > post, JSON.stringify(carried));
    assert.equal(network.swallowed > 0, lets.udp === false, 'datagrams of WebTransport');
    assert.equal(network.refused.includes('upgrade'), lets.upgrades === false, 'upgrades');
    assert.equal(network.refused.includes('call'), lets.calls === false, 'calls');
    assert.deepEqual(errors, []);
  });
}

for (const [transport, lets] of Object.entries(LADDER)) {
  test(`of a site in debug mode the console says what is not counted, by ${transport}`, LIMITS, async () => {
    const rules = { debug: true, schema: { mode: 'enforce', events: { Signup: {} } } };
    const network = await Network.start(instance, `debug-${transport}`, lets, { rules });
    networks.push(network);
    const context = await person(browser);
    const page = await context.newPage();
    const warnings = [];
    page.on('console', (message) => message.text().startsWith('tideline: ') && warnings.push(message.text()));
    const before = await instance.batches();
    const more = async () => ((await instance.batches())[transport] ?? 0) - (before[transport] ?? 0);
    await page.goto(`${network.shop}/`);
    await page.waitForFunction(() => window.tideline);
    // What comes before the agent is connected is posted.
    const connected = async () => {
      await page.evaluate(() => tideline('Signup'));
      return (await more()) > 0;
    };
    await until(`a batch by ${transport}`, connected, WARNING_MAX_MS);
    await page.evaluate(() => tideline('Unlisted'));
    await until('a warning', () => warnings.length, WARNING_MAX_MS);
    const then = await more();
    await page.evaluate(() => tideline('Signup'));
    await until('a batch behind it', async () => (await more()) > then, WARNING_MAX_MS);
    await context.close();
    assert.deepEqual(warnings.map((warning) => /^tideline: event \d+: not counted: .*schema/.test(warning)), [true], warnings.join());
  });
}

describe('a visit is counted once', { concurrency: true }, () => {
  for (const transport of Object.keys(LADDER)) {
    test(`a visit carried by ${transport} is counted once`, LIMITS, async () => {
      await sleep(Math.max(0, settled - Date.now()));
      await assertCounted(instance, transport);
    });
  }
});
