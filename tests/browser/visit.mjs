// One visit to the shop, the same in every browser and whatever carries it: four pages over links, the last a view of the one
// before it, and two custom events, the second while the page is being left.
import assert from 'node:assert/strict';
import { until } from './instance.mjs';

const ARRIVES_MAX_MS = 20_000;
const REPORT_MAX_MS = 40_000;

const PAGES = {
  '/': 1,
  '/products/storm-lantern.html': 1,
  '/app/': 1,
  '/app/tides': 1,
};
const PAGEVIEWS = 4;
const EVENTS = { 'Add to cart': 1, Leaving: 1 };
const PRODUCT = 'Storm lantern';

// Each page and each event has arrived before the next, so that none of them is taken along by a page that goes. Answers which
// transports carried how many batches, and how long after its navigation began each page had arrived.
export const walk = async (page, { instance, shop }) => {
  const before = await instance.batches();
  let arrived = sum(before);
  const arrives = async (action) => {
    const began = performance.now();
    await action();
    await until('a batch more', async () => sum(await instance.batches()) > arrived, ARRIVES_MAX_MS);
    arrived = sum(await instance.batches());
    return Math.round(performance.now() - began);
  };
  const follow = (selector, path) => async () => {
    await page.click(selector);
    await until(path, () => new URL(page.url()).pathname === path, ARRIVES_MAX_MS);
  };
  const arrived_ms = [
    await arrives(() => page.goto(`${shop}/`)),
    await arrives(follow('a[href="products/storm-lantern.html"]', '/products/storm-lantern.html')),
  ];
  await arrives(() => page.click('form[data-add] button'));
  arrived_ms.push(await arrives(follow('a[href="../app/"]', '/app/')));
  await arrives(follow('a[data-view="tides"]', '/app/tides'));
  await arrives(() =>
    page.evaluate(() => {
      tideline('Leaving', { props: { from: 'the tides' } });
      location.href = 'about:blank';
    }),
  );
  const carried = Object.entries(await instance.batches()).map(([transport, batches]) => [transport, batches - (before[transport] ?? 0)]);
  return { carried: Object.fromEntries(carried.filter(([, batches]) => batches)), arrived_ms };
};

// Each page and each event of the visit once, and everything that central keeps of it tells the same.
export const assertCounted = async (instance, site) => {
  const ledger = () => instance.ask('GET', `/api/v2/ledger?site_id=${site}`);
  await until('the whole visit in the ledger', async () => (await ledger()).sent >= PAGEVIEWS + 2, REPORT_MAX_MS).catch((error) =>
    assert.fail(`${error.message}\n${instance.logs()}`),
  );
  const { sent, counted, dropped } = await ledger();
  assert.deepEqual({ sent, counted, dropped: dropped.reasons }, { sent: PAGEVIEWS + 2, counted: PAGEVIEWS + 2, dropped: [] });
  assert.deepEqual(await instance.by('event:page', 'pageviews', site), PAGES);
  assert.deepEqual(await instance.by('event:name', 'events', site), { pageview: PAGEVIEWS, ...EVENTS });
  const metrics = ['visitors', 'visits', 'pageviews', 'events', 'bounce_rate'];
  const [{ metrics: figures }] = (await instance.query({ site_id: site, metrics })).results;
  assert.deepEqual(figures, [1, 1, PAGEVIEWS, PAGEVIEWS + 2, 0]);
  const { state, difference } = await instance.audit(site);
  assert.deepEqual({ state, difference }, { state: 'clean', difference: 0 });
  // Of raw rows, which the audit has waited for.
  assert.equal((await instance.by('event:props:product', 'events', site))[PRODUCT], 1);
  assert.equal((await instance.by('event:props:from', 'events', site))['the tides'], 1);
};

const sum = (batches) => Object.values(batches).reduce((total, more) => total + more, 0);
