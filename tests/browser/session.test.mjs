// A visit to the demo shop, counted exactly: from the page to the Stats API and the live figure.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { readFileSync, readdirSync } from 'node:fs';
import { resolve } from 'node:path';
import { brotliCompressSync } from 'node:zlib';
import { Instance, launch, person, sleep, until, weigh } from './instance.mjs';

const LIMITS = { timeout: 120_000 };
// Figures are printed, not asserted: reports are there within 15 s and live figures within 2 s on a machine that is not busy
// with something else. These only end a wait for what never comes.
const REPORT_MAX_MS = 40_000;
const LIVE_MAX_MS = 15_000;
const ANOTHER_CUT_MS = 12_000;

let instance;
let browser;
before(async () => {
  instance = await Instance.start();
  browser = await launch();
}, { timeout: 150_000 });
after(async () => {
  await browser?.close();
  await instance?.stop();
});

// Seven pages, of which one out of the back/forward cache and two inside an application, and three custom events.
const PAGES = {
  '/': 1,
  '/collections/cabin.html': 2,
  '/products/storm-lantern.html': 1,
  '/app/': 1,
  '/app/tides': 1,
  '/about.html': 1,
};
const EVENTS = { 'Add to cart': 2, Signup: 1 };

const walk = async (page) => {
  await page.goto(`${instance.shop}/`);
  await page.fill('form[data-signup] input', 'someone@example.com');
  await page.click('form[data-signup] button');
  await page.click('text=Into the cabin');
  await page.waitForURL('**/cabin.html');
  await page.evaluate(() => (window.kept = true));
  await page.click('a[href*="storm-lantern"]');
  await page.waitForURL('**/storm-lantern.html');
  await page.click('form[data-add] button');
  await page.goBack({ waitUntil: 'commit' }); // a page out of the cache does not load
  assert.equal(await page.evaluate(() => window.kept), true, 'the page was made anew, not kept in the back/forward cache');
  await page.click('a[href*="app/"]');
  await page.waitForURL('**/app/');
  await page.click('.views nav a[data-view="tides"]');
  await page.waitForURL('**/app/tides');
  await page.click('header a[href*="about.html"]');
  await page.waitForURL('**/about.html');
};

const expectCounts = async (before_, pages, events, times) => {
  const wanted = [pages + before_[0], pages + events + before_[1]];
  const took = await until(`counts ${wanted}`, async () => String(await instance.counts()) === String(wanted), REPORT_MAX_MS)
    .catch(async (error) => assert.fail(`${error.message}; they are ${await instance.counts()}\n${instance.logs()}`));
  console.log(`counted ${times} ${(took / 1000).toFixed(1)} s later`);
  await sleep(ANOTHER_CUT_MS); // what is counted twice would show by then
  assert.deepEqual(await instance.counts(), wanted);
};

const sum = (minutes, field) => minutes.reduce((total, minute) => total + minute[field], 0);

test('seven pages and three events are counted exactly, and shown live at once', LIMITS, async () => {
  const context = await person(browser);
  const page = await context.newPage();
  const errors = [];
  page.on('pageerror', (error) => errors.push(String(error)));
  await page.addInitScript(() => delete window.WebTransport); // whose bytes cannot be seen from here
  const weight = weigh(page);
  await walk(page);
  await page.evaluate(() => tideline('Add to cart', { props: { product: 'Enamel mug', price: '£14.50' } }));
  const live_ms = await until('live figures', async () => {
    const live = await instance.live();
    return live.current_visitors === 1 && sum(live.minutes, 'pageviews') === 7;
  }, LIVE_MAX_MS).catch(async (error) => assert.fail(`${error.message}: ${JSON.stringify(await instance.live())}\n${instance.logs()}`));
  await expectCounts([0, 0], 7, 3, `live after ${live_ms} ms, in reports`);
  assert.deepEqual(await instance.by('event:page', 'pageviews'), PAGES);
  assert.deepEqual(await instance.by('event:name', 'events'), { pageview: 7, ...EVENTS });
  const [visits, bounces] = (await instance.query({ metrics: ['visits', 'bounce_rate'] })).results[0].metrics;
  assert.deepEqual([visits, bounces], [1, 0]);
  assert.deepEqual(await instance.by('visit:entry_page', 'visits'), { '/': 1 });
  assert.deepEqual(await instance.by('visit:browser', 'visits'), { Chrome: 1 });
  assert.deepEqual(errors, []);
  console.log(`on the wire: ${weight.bytes} bytes in ${weight.messages} messages, ${(weight.bytes / 10).toFixed(0)} bytes an event`);
  await context.close();
});

test('the tab closed right after the last click loses nothing', LIMITS, async () => {
  const began = await instance.counts();
  const context = await person(browser);
  const page = await context.newPage();
  await walk(page);
  await page.goto(`${instance.shop}/products/enamel-mug.html`);
  await page.click('form[data-add] button');
  await page.close({ runBeforeUnload: true });
  await expectCounts(began, 8, 3, 'a closed tab');
  await context.close();
});

test('a page left 50 ms after the script ran is counted', LIMITS, async () => {
  const began = await instance.counts();
  const context = await person(browser);
  const page = await context.newPage();
  await page.addInitScript(() => {
    // The script defines `tideline` on the window as soon as it runs; the page's own queue is not that.
    const leave = () => setTimeout(() => (location.href = 'about:blank'), 50);
    const script = () => document.querySelector('script[data-site]');
    addEventListener('DOMContentLoaded', () => script() && leave());
  });
  for (let i = 0; i < 5; i++) {
    await page.goto(`${instance.shop}/about.html`, { waitUntil: 'commit' });
    await page.waitForURL('about:blank');
  }
  await expectCounts(began, 5, 0, 'pages left at once');
  await context.close();
});

test('what the agent weighs', LIMITS, async () => {
  const dist = resolve(import.meta.dirname, '../../wasm-agent/dist');
  const files = readdirSync(dist).filter((name) => /\.(js|wasm)$/.test(name));
  assert.ok(files.includes('tideline.js') && files.includes('tideline.wasm'));
  for (const name of files) {
    const bytes = readFileSync(`${dist}/${name}`);
    console.log(`${name}: ${bytes.length} bytes, ${brotliCompressSync(bytes).length} as brotli`);
  }
});
