// An outbox on the device against every process: what a page could not send before it was closed is counted, once.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Instance, launch, person, sleep, until } from './instance.mjs';

const LIMITS = { timeout: 120_000 };
const REPORT_MAX_MS = 40_000;
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

const storedBatches = (page) =>
  page.evaluate(async () => {
    const done = (request) => new Promise((resolve, reject) => ((request.onsuccess = () => resolve(request.result)), (request.onerror = reject)));
    const [{ name }] = await indexedDB.databases();
    const database = await done(indexedDB.open(name));
    const count = await done(database.transaction('outbox').objectStore('outbox').count(IDBKeyRange.lowerBound(new Uint8Array())));
    database.close();
    return count;
  });

test('events of a page that was closed without a network are counted once, by way of the next page', LIMITS, async () => {
  const context = await person(browser);
  const page = await context.newPage();
  await page.goto(`${instance.shop}/about.html`);
  await page.evaluate(() => tideline('consent', 'granted'));
  const other = await context.newPage();
  await other.goto(`${instance.shop}/about.html`);
  await other.evaluate(() => tideline('consent', 'granted'));
  await until('two pages counted', async () => String(await instance.counts()) === '2,2', REPORT_MAX_MS);

  await context.setOffline(true);
  await page.evaluate(() => {
    for (let number = 0; number < 5; number++) tideline('Offline');
  });
  await page.close({ runBeforeUnload: true });
  await until('stored', async () => (await storedBatches(other)) === 1, 10_000);
  await other.close({ runBeforeUnload: true });
  await sleep(500);
  await context.setOffline(false);

  const next = await context.newPage();
  await next.goto(`${instance.shop}/about.html`);
  await next.evaluate(() => tideline('consent', 'granted'));
  const counted = async () => String(await instance.counts()) === '3,8';
  await until('all events counted', counted, REPORT_MAX_MS).catch(async (error) => {
    assert.fail(`${error.message}: ${await instance.counts()}\n${instance.logs()}`);
  });
  await sleep(ANOTHER_CUT_MS); // what is counted twice may be counted late
  assert.ok(await counted(), `${await instance.counts()} after another cut`);
  assert.deepEqual(await instance.by('event:name', 'events'), { pageview: 3, Offline: 5 });
  assert.equal(await storedBatches(next), 0);
  await next.evaluate(() => tideline('consent', 'denied'));
  await until('the store is deleted', async () => !(await next.evaluate(() => indexedDB.databases())).length, 5_000);
  await context.close();
});
