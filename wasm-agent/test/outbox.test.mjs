// The outbox on the device, in a real browser: what waits there, who sends it, and who may not store anything.
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { CONSENTS, html, launch, launchProfile, settles, sleep, snippet, until, visit } from './browser.mjs';

let browser;
before(async () => {
  browser = await launch();
});
after(() => browser.close());

const LIMITS = { timeout: 90_000 };
// A page without the agent, to look at the store from, is at /blank.
const granted = { page: (path, gateway) => (path === '/blank' ? '<!doctype html>' : CONSENTS(path, gateway)) };
const CLASS_LONG = 1;
const REASON_EXPIRED = 65;
const REASON_EXPIRED_IN_DOUBT = 66;

// [{ key, sent, seq bytes }] of the store, or null where there is none. Asked of a page that does not run the agent.
const stored = (page) =>
  page.evaluate(async () => {
    if (!(await indexedDB.databases()).some(({ name }) => name === 'tideline/shop')) return null;
    const done = (request) => new Promise((resolve, reject) => ((request.onsuccess = () => resolve(request.result)), (request.onerror = reject)));
    const database = await done(indexedDB.open('tideline/shop'));
    const values = await done(database.transaction('outbox').objectStore('outbox').getAll(IDBKeyRange.lowerBound(new Uint8Array())));
    database.close();
    return values.map(({ sent, batch }) => ({ sent, bytes: batch.length }));
  });

const untilStored = async (page, count) => {
  for (const end = Date.now() + 10_000; (await stored(page))?.length !== count; await sleep(50)) {
    if (Date.now() > end) throw new Error(`${JSON.stringify(await stored(page))} stored instead of ${count}`);
  }
};

// Events that wait: the gateway answers nothing and takes no connection.
const offline = async ({ gateway, page, url }) => {
  await page.goto(url);
  await settles(() => gateway.names(), ['/']);
  await untilStored(page, 0);
  gateway.away = true;
  gateway.cut();
  for (const name of ['One', 'Two', 'Three']) await page.evaluate((called) => tideline(called), name);
};

// Closes the page and gives one without an agent once what could not be sent is on the device.
const leaveForGood = async ({ page, context, url }) => {
  const blank = await context.newPage();
  await blank.goto(`${url}/blank`);
  await page.close({ runBeforeUnload: true });
  await untilStored(blank, 1); // all three events: what cannot leave waits in one batch
  await sleep(300); // the last requests have failed
  return blank;
};

test('with consent a batch is on the device before it is sent, and leaves it with its answer', LIMITS, () =>
  visit(browser, { ...granted, gateway: { acknowledges: false } }, async ({ gateway, page, url }) => {
    await page.goto(url);
    await until(() => gateway.transmissions.length === 1);
    assert.equal(gateway.transmissions[0].batch.class, CLASS_LONG);
    assert.deepEqual(await stored(page), [{ sent: true, bytes: gateway.transmissions[0].bytes.length }]);
    gateway.acknowledges = true;
    gateway.cut();
    await until(() => gateway.transmissions.length === 2);
    await untilStored(page, 0);
    await settles(() => gateway.names(), ['/']);
  }));

test('what a closed page could not send, the next one sends under its numbers', LIMITS, () =>
  visit(browser, granted, async (story) => {
    await offline(story);
    const { gateway, context, url } = story;
    await leaveForGood(story);
    const sent = gateway.transmissions.length;
    gateway.away = false;
    const next = await context.newPage();
    await next.goto(`${url}/next`);
    await settles(() => gateway.names().sort(), ['/', '/next', 'One', 'Three', 'Two'].sort());
    await untilStored(next, 0);
    const sids = gateway.events().map(({ sid }) => sid);
    assert.equal(new Set(sids).size, 2, 'a sid a page');
    assert.ok(gateway.transmissions.slice(sent).every(({ batch }) => batch.class === CLASS_LONG));
  }));

test('it survives the end of the browser', LIMITS, async () => {
  const folder = mkdtempSync(join(tmpdir(), 'tideline-profile-'));
  let first = await launchProfile(folder);
  let second;
  try {
    await visit(null, { ...granted, context: first }, async (story) => {
      await offline(story);
      const { gateway, url } = story;
      await leaveForGood(story);
      await first.close();
      gateway.away = false;
      second = await launchProfile(folder);
      const next = await second.newPage();
      await next.goto(`${url}/next`);
      await settles(() => gateway.names().sort(), ['/', '/next', 'One', 'Three', 'Two'].sort());
      await untilStored(next, 0);
    });
  } finally {
    await first.close().catch(() => {});
    await second?.close().catch(() => {});
    rmSync(folder, { recursive: true, force: true });
  }
});

test('without consent nothing is stored, and denying it deletes what was', LIMITS, () =>
  visit(browser, { page: (_, gateway) => html(gateway) }, async ({ gateway, page, url }) => {
    await page.goto(url);
    gateway.away = true;
    await page.evaluate(() => tideline('Memory'));
    await sleep(1_200);
    assert.deepEqual(await page.evaluate(() => indexedDB.databases()), []);
    await page.evaluate(() => tideline('consent', 'granted'));
    await page.evaluate(() => tideline('Stored'));
    gateway.away = false;
    gateway.acknowledges = false;
    gateway.cut();
    await until(() => gateway.names().includes('Stored'));
    await untilStored(page, 1);
    await page.evaluate(() => tideline('consent', 'denied'));
    for (const end = Date.now() + 5_000; (await page.evaluate(() => indexedDB.databases())).length; await sleep(20)) {
      assert.ok(Date.now() < end, 'the store is still there');
    }
    await page.evaluate(() => tideline('Denied'));
    gateway.acknowledges = true;
    gateway.cut();
    await settles(() => gateway.names(), ['/', 'Memory', 'Stored', 'Denied']);
    const classes = Object.fromEntries(gateway.events().map(({ name, batch }) => [name, batch.class]));
    assert.deepEqual(classes, { pageview: 0, Memory: 0, Stored: CLASS_LONG, Denied: 0 });
    assert.deepEqual(await page.evaluate(() => indexedDB.databases()), []);
  }));

test('two pages at once each send their own, and one of them what a third left', LIMITS, () =>
  visit(browser, granted, async (story) => {
    await offline(story);
    const { gateway, context, url } = story;
    await leaveForGood(story);
    gateway.away = false;
    const pages = [await context.newPage(), await context.newPage()];
    await Promise.all(pages.map((next, number) => next.goto(`${url}/${number}`)));
    await Promise.all(pages.map((next, number) => next.evaluate((called) => tideline(called), `Tab ${number}`)));
    await settles(() => gateway.names().sort(), ['/', '/0', '/1', 'One', 'Tab 0', 'Tab 1', 'Three', 'Two']); // no number twice
    await untilStored(pages[0], 0);
  }));

test('where the store is full or blocked the outbox is in memory', LIMITS, async () => {
  const blocked = () => Object.defineProperty(window, 'indexedDB', { get: () => undefined });
  const full = () => {
    IDBObjectStore.prototype.put = () => {
      throw new DOMException('no room', 'QuotaExceededError');
    };
  };
  const hangs = () => {
    indexedDB.open = () => ({});
  };
  for (const init of [blocked, full, hangs]) {
    await visit(browser, { ...granted, init }, async ({ gateway, page, url }) => {
      await page.goto(url);
      await page.evaluate(() => tideline('Memory'));
      await settles(() => gateway.names(), ['/', 'Memory']);
    });
  }
});

test('what has waited for a day is given up and reported', LIMITS, () =>
  visit(browser, granted, async (story) => {
    await offline(story);
    const { gateway, context, url } = story;
    await leaveForGood(story);
    gateway.away = false;
    const next = await context.newPage();
    await next.clock.install({ time: Date.now() + 24.5 * 3600_000 });
    gateway.clockAheadMs = 24.5 * 3600_000;
    await next.goto(`${url}/next`);
    await until(() => gateway.transmissions.some(({ batch }) => batch.givenUp.length));
    await settles(() => gateway.names(), ['/', '/next']);
    const given = gateway.transmissions.flatMap(({ batch }) => batch.givenUp);
    assert.equal(given.reduce((sum, { events }) => sum + events, 0), 3);
    assert.ok(given.every(({ reason }) => [REASON_EXPIRED, REASON_EXPIRED_IN_DOUBT].includes(reason)));
    await untilStored(next, 0);
  }));

test('a throttled batch stays on the device, a finally refused one does not', LIMITS, () =>
  visit(browser, { ...granted, gateway: { throttle: { waitMs: 1_000 } } }, async ({ gateway, page, url }) => {
    await page.goto(url);
    await until(() => gateway.transmissions.length >= 2);
    assert.equal((await stored(page)).length, 1);
    assert.ok(gateway.transmissions.every(({ bytes }) => bytes.equals(gateway.transmissions[0].bytes)));
    gateway.throttle = null;
    gateway.reject = { reason: 39, final: true, message: 'a program' };
    await until(() => gateway.transmissions.length >= 3);
    await untilStored(page, 0);
  }));

test('a page that stores comes back out of the back-forward cache and sends nothing anew', LIMITS, () =>
  visit(browser, granted, async ({ gateway, page, url }) => {
    await page.goto(`${url}/first`);
    await settles(() => gateway.names(), ['/first']);
    await page.evaluate(() => (window.survived = true));
    await page.goto(`${url}/second`);
    await settles(() => gateway.names(), ['/first', '/second']);
    await page.goBack({ waitUntil: 'commit' });
    assert.equal(await page.evaluate(() => window.survived), true, 'the page was kept');
    await settles(() => gateway.names(), ['/first', '/second', '/first']);
    await page.evaluate(() => tideline('Again'));
    await settles(() => gateway.names(), ['/first', '/second', '/first', 'Again']);
    await untilStored(page, 0);
  }));
